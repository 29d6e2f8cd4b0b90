"""Means over samples and over categories."""

from __future__ import annotations

from collections.abc import Sequence

from harness.benchmarks.scoring.verdict import Measure, Metric, Scored


def judged(samples: Sequence[Scored]) -> tuple[list[Scored], str]:
    """The samples that have a verdict, and a note on the others."""
    known = [s for s in samples if s.verdict.value is not None]
    left = len(samples) - len(known)
    return known, f"{left} of {len(samples)} samples are unjudged" if left else ""


def mean(samples: Sequence[Scored]) -> Measure:
    """Mean credit of all samples."""
    known, note = judged(samples)
    value = sum(s.verdict.value or 0.0 for s in known) / len(known) if known else None
    return Measure(value, len(known), note)


METRICS: dict[str, Metric] = {"mean": mean}
