"""One measured number against one published number: may they be compared, and do they differ?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.benchmarks import scoring

Drift = Literal["agrees", "drifts"]

Z = 1.959963984540054  # the two-sided 5 % point of the normal distribution


@dataclass(frozen=True)
class Ours:
    """A measured cell, in the unit of the published metric.

    Attributes:
        value, low, high: the metric and the ends of its 95 % interval, which are None where none is known.
        n: samples scored.
        judge: the judge's name, None without one; `judged`: whether the benchmark's rule has one.
        changed: keys in which the run is not what the experiment asks for.
        ocr: whether the prompt holds OCR tokens (TextVQA).
        stand_in: what was run instead, under `--tiny`.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    judged: bool = False
    judge: str | None = None
    changed: Sequence[str] = ()
    stand_in: str | None = None
    ocr: bool = False

    @property
    def error(self) -> float | None:
        """Standard error, from the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / (2 * Z)


def obstacles(ours: Ours, row: Mapping[str, Any], n: float, judge: str) -> list[str]:
    """Why a measured value must not be held against a published one; empty if it may.

    Args:
        row: the published row.
        n: items behind the published value, NaN if unknown.
        judge: of the paper's protocol, as it states it.
    """
    out = [f"self-test: {ours.stand_in}"] if ours.stand_in else []
    if not math.isnan(n) and ours.n != n:
        out.append(f"N {ours.n} vs {n:g}")
    if ours.judged and judge and judge != ours.judge:
        out.append(f"judge {ours.judge or 'none'} vs {judge}")
    if ours.changed:
        out.append(f"run with {', '.join(ours.changed)} changed")
    if (theirs := ocr(row["convention_flags"])) is not None and theirs != ours.ocr:
        out.append(f"prompt {'with' if ours.ocr else 'without'} OCR tokens, theirs {'with' if theirs else 'without'}")
    if row["status"] == "quarantined":
        out.append(f"quarantined: {row['note'] or 'its model or meaning is not certain'}")
    if row["trained"] == "true":
        out.append("the published one is trained")
    return out


def ocr(flags: str) -> bool | None:
    """Whether a published TextVQA prompt holds OCR tokens, which is worth twelve points; None for other rows."""
    return False if "textvqa_no_ocr" in flags else True if "textvqa_ocr" in flags else None


def spread_of(published: float, n: float, unit: str) -> float | None:
    """Standard error of a published share of n items, in its unit; None where it is no share or n is unknown.

    sqrt(p (1 - p) / n): items are taken as independent, since no paper states clusters.
    """
    if unit != "percent" or math.isnan(n) or not 0 <= published <= 100:
        return None
    p = published / 100
    return 100 * math.sqrt(p * (1 - p) / n)


def drift(ours: Ours, published: float, error: float | None) -> tuple[float, Drift] | None:
    """|ours - published| in standard errors of the difference, and the verdict at the 5 % level.

    sqrt(SE_ours^2 + p (1 - p) / n); None where either error is unknown.
    """
    if ours.error is None or error is None:
        return None
    both = math.hypot(ours.error, error)
    distance = abs(ours.value - published)
    z = distance / both if both else math.inf if distance else 0.0
    return z, "drifts" if z > Z else "agrees"


def judged(rule: str) -> bool:
    """Whether a rule asks a judge where there is one."""
    return rule in scoring.JUDGED
