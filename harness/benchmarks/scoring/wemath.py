"""We-Math: answers, and its four-way diagnosis of problems (Qiao et al., We-Math, arXiv 2407.01284, section 2.3)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

from harness.benchmarks.base import Item
from harness.benchmarks.scoring import mcq_kit
from harness.benchmarks.scoring.clusters import by_cluster, notes
from harness.benchmarks.scoring.means import judged
from harness.benchmarks.scoring.verdict import Ask, JudgedRule, Measure, Metric, Rule, Scored, Verdict, settle

Diagnosis = Literal["IK", "IG", "CM", "RM"]


def official(item: Item, answer: str) -> Verdict:
    """The letter that follows the last "Answer" (We-Math, four_dimensional_metrics.py, load_and_process_data)."""
    said = re.sub("[<>:.]", "", answer.rpartition("Answer")[2]).strip()[:1]
    return settle("wemath.official", said if said and said in "ABCDEFGH" else None, said == item.answer)


def vlmevalkit(item: Item, answer: str, ask: Ask | None) -> Verdict:
    """VLMEvalKit's WeMath.evaluate: multiple choice by a judge; without one the official letter."""
    if ask is None:
        return replace(official(item, answer), rule="wemath.vlmevalkit")
    return mcq_kit.kit(item, answer, ask, "wemath.vlmevalkit")


def diagnose(steps: Sequence[bool], whole: bool, *, strict: bool) -> Diagnosis:
    """What the answers to a problem and to its steps show (calculate_metrics of the same file).

    Insufficient knowledge: a step and the problem are wrong. Inadequate generalization: every step is right, the
    problem is not. Rote memorization: the problem is right, but a step is not (strict) or none is (loose). Complete
    mastery: the other ones.
    """
    if whole:
        return "CM" if (all(steps) if strict else any(steps)) else "RM"
    return "IG" if all(steps) else "IK"


def diagnoses(samples: Sequence[Scored], *, strict: bool) -> tuple[Counter[Diagnosis], str]:
    """Counts over the complete problems, and a note on the others."""
    known, note = judged(samples)
    problems = by_cluster(known)
    complete = [steps for problem in problems if (steps := _steps(problem))]
    left = len(problems) - len(complete)
    incomplete = f"{left} of {len(problems)} problems are incomplete and left out" if left else ""
    return Counter(diagnose(steps, whole, strict=strict) for *steps, whole in complete), notes(note, incomplete)


def _steps(problem: Sequence[Scored]) -> list[bool]:
    """Whether each step and last the problem itself is right; empty if one of them is missing."""
    right = {s.item.meta["key"]: bool(s.verdict.correct) for s in problem}
    kind = next(iter(right)).partition("_")[0]  # "2steps" or "3steps"
    keys = [f"{kind}_{step}" for step in (*range(1, int(kind.removesuffix("steps")) + 1), "multi")]
    return [right[key] for key in keys] if right.keys() == set(keys) else []


def score(samples: Sequence[Scored], *, strict: bool) -> Measure:
    """Score (strict or loose): complete mastery counts 1, inadequate generalization one half.

    Of the complete problems that there are, where the official code divides by 525 whatever there is.
    """
    counts, note = diagnoses(samples, strict=strict)
    return _share(counts["CM"] + counts["IG"] / 2, counts.total(), note)


def share(samples: Sequence[Scored], *, of: Diagnosis) -> Measure:
    """Share of the problems with a (strict) diagnosis."""
    counts, note = diagnoses(samples, strict=True)
    return _share(counts[of], counts.total(), note)


def rote(samples: Sequence[Scored], *, strict: bool) -> Measure:
    """Rote memorization as it is printed: of the problems that were solved, not of all."""
    counts, note = diagnoses(samples, strict=strict)
    return _share(counts["RM"], counts["RM"] + counts["CM"], note)


def _share(part: float, n: int, note: str) -> Measure:
    return Measure(part / n if n else None, n, note)


RULES: dict[str, Rule] = {"wemath.official": official}
JUDGED: dict[str, JudgedRule] = {"wemath.vlmevalkit": vlmevalkit}
METRICS: dict[str, Metric] = {
    "wemath.strict": partial(score, strict=True),
    "wemath.loose": partial(score, strict=False),
    "wemath.ik": partial(share, of="IK"),
    "wemath.ig": partial(share, of="IG"),
    "wemath.cm": partial(share, of="CM"),
    "wemath.rm_strict": partial(rote, strict=True),
    "wemath.rm_loose": partial(rote, strict=False),
}
