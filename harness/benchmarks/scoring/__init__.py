"""Scoring: named rules for single replies, named metrics over them. Rules never touch pictures, disks or networks.

A rule is registered under "<benchmark or family>.<origin>", such as `pope.llava`; docstrings name the source.
"""

from __future__ import annotations

from harness.benchmarks.base import Item, Scoring
from harness.benchmarks.scoring import glyphs, groups, letters, means, reasoning, vqa, wemath, yesno
from harness.benchmarks.scoring.verdict import Ask, JudgedRule, Measure, Metric, Rule, Scored, Verdict

SCORING_VERSION = "1"
"""Changes when a rule or metric gives other verdicts than before."""

RULES: dict[str, Rule] = {
    **glyphs.RULES, **letters.RULES, **yesno.RULES, **vqa.RULES, **reasoning.RULES, **wemath.RULES,
}  # fmt: skip
JUDGED: dict[str, JudgedRule] = {**letters.JUDGED, **yesno.JUDGED, **reasoning.JUDGED, **wemath.JUDGED}
METRICS: dict[str, Metric] = {
    **means.METRICS, **yesno.METRICS, **groups.METRICS, **reasoning.METRICS, **wemath.METRICS,
}  # fmt: skip

CALLS = {"mathverse.vlmevalkit": 2}
"""Replies that a judge gives per sample, where that is not one; retries come on top."""


def check(scoring: Scoring) -> None:
    """Raise ValueError for a rule or metric that is not registered."""
    for kind, known, names in (
        ("rule", {**RULES, **JUDGED}, (scoring.rule,)),
        ("lenient rule", RULES, (scoring.lenient,)),
        ("metric", METRICS, scoring.metrics),
    ):
        for name in names:
            if name not in known:
                raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(sorted(known))}")


def score(rule: str, item: Item, answer: str, ask: Ask | None = None) -> Verdict:
    """The verdict of a registered rule; `ask` reaches a judge, if there is one."""
    return JUDGED[rule](item, answer, ask) if rule in JUDGED else RULES[rule](item, answer)


__all__ = ["JUDGED", "METRICS", "RULES", "SCORING_VERSION", "Measure", "Scored", "Scoring", "Verdict", "check", "score"]
