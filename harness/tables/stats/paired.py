"""Two methods on the same samples: difference, tests and verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.tables.stats.accuracy import binary
from harness.tables.stats.resample import RESAMPLES, Array, Clusters, bootstrap, by_cluster, interval, sign_flip

Verdict = Literal["equivalent", "worse", "better", "inconclusive"]

ALPHA = 0.05


@dataclass(frozen=True)
class Difference:
    """Mean paired difference (positive: the first is better) over `pairs` common samples.

    Attributes:
        low, high: 95 % interval.
        p: two-sided, of no difference.
        p_margin: of a difference as large as the margin or larger (TOST: the larger of its two one-sided p-values).
    """

    value: float
    low: float
    high: float
    p: float
    p_margin: float
    pairs: int
    rule: Literal["exact McNemar", "sign-flip permutation", "cluster permutation of the metric", "clusters and runs"]


def paired(credit: Array, other: Array, cluster: Clusters, margin: float = 0.01) -> Difference:
    """Compare two methods on the same samples; `credit` and `other` are [n], the margin is a share (0.01: one point).

    p: the signs of whole clusters are flipped (`sign_flip`). With one item a cluster and credits of 0 or 1 that is
    exact McNemar, which is computed instead.

    Interval and p_margin: percentile bootstrap of clusters, after two made ones of mean size, one won and one lost
    entirely, have joined (Bonett and Price's adjustment of the paired interval, 2012). Without them, two methods that
    agree on every one of ten samples would count as proven equal.
    """
    delta = credit - other
    total, size = by_cluster(delta, cluster)
    single = bool(size.max() == 1) and binary(credit) and binary(other)
    made = size.mean()
    draws = bootstrap(np.append(total, [made, -made]), np.append(size, [made, made]))
    low, high = interval(draws)
    beyond = max(np.count_nonzero(draws >= margin), np.count_nonzero(draws <= -margin))
    return Difference(
        value=float(delta.mean()),
        low=low,
        high=high,
        p=_mcnemar(total) if single else sign_flip(total),
        p_margin=(1 + beyond) / (1 + RESAMPLES),
        pairs=delta.size,
        rule="exact McNemar" if single else "sign-flip permutation",
    )


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: p-values that may be held against the level as if each were alone."""
    values = np.asarray(p, dtype=np.float64)  # statsmodels' multipletests does it, too, after a second of imports
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(values.size, 0, -1)))
    return [float(x) for x in adjusted]


def verdict(difference: float, p: float, p_margin: float) -> Verdict:
    """What a cell may claim at the 5 % level; both p-values adjusted for the cells of the table.

    equivalent: p_margin < 0.05, the difference is shown to be smaller than the margin (even if it is not nought).
    worse, better: not so, and p < 0.05.
    inconclusive: neither could be shown. More samples may.
    """
    if p_margin < ALPHA:
        return "equivalent"
    if p < ALPHA and difference:
        return "better" if difference > 0 else "worse"
    return "inconclusive"


def _mcnemar(total: Array) -> float:
    from scipy import stats  # a second, which tables of clusters do without

    won, lost = np.count_nonzero(total > 0), np.count_nonzero(total < 0)
    return float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0
