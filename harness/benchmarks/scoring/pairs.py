"""Yes/no questions that count in groups: MME's pairs, HallusionBench's figures and questions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial

from harness.benchmarks.base import Item
from harness.benchmarks.scoring.clusters import by_cluster, notes
from harness.benchmarks.scoring.means import judged, mean
from harness.benchmarks.scoring.verdict import (
    Ask,
    JudgedRule,
    Measure,
    Metric,
    Rule,
    Scored,
    Verdict,
    settle,
    unjudged,
)

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
JUDGE = """\
Judge a prediction like a teacher who reads with care. Reply correct if it does not conflict with the reference, \
incorrect if it does, and unclear if it does not say what the answer is. Reply with that one word.

Question: {question}
Reference answer: {reference}
Prediction: {answer}
Verdict:"""


def begun(text: str) -> str | None:
    """Yes or no, if that is the text or within its first four characters."""
    return "yes" if "yes" in text[:4] else "no" if "no" in text[:4] else None


def mme(item: Item, answer: str) -> Verdict:
    """Yes or no among the first four characters (Fu et al., MME, arXiv 2306.13394, its tool calculation.py)."""
    said = begun(answer.lower())
    return settle("mme.official", said, said == item.answer)


def mme_lmms(item: Item, answer: str) -> Verdict:
    """The same without full stops, and "y" and "n" alone (lmms-eval 0.7.3, tasks/mme/utils.py, parse_pred_ans)."""
    text = answer.lower().strip().replace(".", "")
    said = {"y": "yes", "n": "no"}.get(text) or begun(text)
    return settle("mme.lmms", said, said == item.answer)


def points(samples: Sequence[Scored], categories: Sequence[str]) -> Measure:
    """Sum over categories of accuracy plus accuracy+, the share of pictures with both questions right.

    A point of MME is 0.01 here, so that perception has 20 at most and cognition 8. n counts pictures; those without
    both questions are left out.
    """
    known, note = judged(samples)
    pairs = by_cluster([sample for sample in known if sample.item.category in categories])
    whole = [pair for pair in pairs if len(pair) == 2]
    by: dict[str, list[float]] = defaultdict(list)
    for pair in whole:
        right = sum(bool(sample.verdict.correct) for sample in pair)
        by[pair[0].item.category].append(right / 2 + (right == 2))
    odd = len(pairs) - len(whole)
    left = f"{odd} of {len(pairs)} pictures do not have two questions and are left out" if odd else ""
    few = f"{len(by)} of {len(categories)} categories" if len(by) < len(categories) else ""
    value = sum(sum(values) / len(values) for values in by.values()) if by else None
    return Measure(value, len(whole), notes(few, left, note))


def hallusionbench_lmms(item: Item, answer: str, ask: Ask | None) -> Verdict:
    """A judge compares the reply with the reference in a sentence; what is unclear is wrong.

    Source: lmms-eval 0.7.3, tasks/hallusion_bench/utils.py, evaluate_by_chatgpt, which is HallusionBench's own. The
    question to the judge is in our words. There a judge that fails makes the reply unclear; here it stays unjudged.
    """
    if ask is None:
        return unjudged("hallusionbench.lmms")
    reply = ask(JUDGE.format(question=item.meta["question"], reference=item.meta["details"], answer=answer)).lower()
    return settle("hallusionbench.lmms", answer.strip() or None, "correct" in reply and "incorrect" not in reply)


def consistent(samples: Sequence[Scored], key: str) -> Measure:
    """Share of the figures, or of the questions, of each set that have all their replies right.

    Sets that lack rows are left out. Source: VLMEvalKit, vlmeval/dataset/utils/yorn.py, Hallusion_rating.
    """
    known, note = judged(samples)
    sets = by_cluster(known)
    whole = [group for group in sets if len(group) == group[0].item.meta["group_size"]]
    right: list[bool] = []
    for group in whole:
        parts: dict[str, bool] = {}
        for sample in group:
            name = sample.item.meta[key]
            parts[name] = parts.get(name, True) and bool(sample.verdict.correct)
        right += parts.values()
    odd = len(sets) - len(whole)
    left = f"{odd} of {len(sets)} sets lack questions and are left out" if odd else ""
    return Measure(sum(right) / len(right) if right else None, len(right), notes(left, note))


def overall(samples: Sequence[Scored]) -> Measure:
    """Mean of aAcc, fAcc and qAcc, as VLMEvalKit's leaderboard shows it."""
    parts = [METRICS[f"hallusionbench.{name}"](samples) for name in ("aacc", "facc", "qacc")]
    values = [part.value for part in parts if part.value is not None]
    return Measure(sum(values) / 3 if len(values) == 3 else None, parts[0].n if len(values) == 3 else 0, parts[1].note)


RULES: dict[str, Rule] = {"mme.official": mme, "mme.lmms": mme_lmms}
JUDGED: dict[str, JudgedRule] = {"hallusionbench.lmms": hallusionbench_lmms}
METRICS: dict[str, Metric] = {
    "mme.total": partial(points, categories=PERCEPTION + COGNITION),
    "mme.perception": partial(points, categories=PERCEPTION),
    "mme.cognition": partial(points, categories=COGNITION),
    "hallusionbench.aacc": mean,
    "hallusionbench.facc": partial(consistent, key="figure"),
    "hallusionbench.qacc": partial(consistent, key="question_number"),
    "hallusionbench.overall": overall,
}
