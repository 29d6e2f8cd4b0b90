"""Statistics of one leaderboard: intervals, paired tests, equivalence, and the correction for many cells.

Credits lie in 0..1. Items that share a picture or a seed question form a cluster; clusters, never items, are what is
drawn anew. Every random number comes from a fixed seed, so a table is the same each time it is printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[np.float64]
Verdict = Literal["equivalent", "worse", "better", "inconclusive"]

LEVEL = 0.95
ALPHA = 0.05
RESAMPLES = 9999
SEED = 20250
_BATCH = 512


@dataclass(frozen=True)
class Estimate:
    """A mean credit with its 95 % interval, and the rule that gave the interval."""

    value: float
    low: float
    high: float
    rule: Literal["Wilson", "cluster bootstrap"]


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
    rule: Literal["exact McNemar", "sign-flip permutation"]


def accuracy(credit: Array, cluster: Sequence[object]) -> Estimate:
    """Mean of credits [n] with a 95 % interval.

    Wilson where every cluster has one item and credits are 0 or 1; else the percentile cluster bootstrap. All credits 0
    or all 1 would leave the bootstrap nothing to vary: there Wilson counts each cluster once.
    """
    total, size = _by_cluster(credit, cluster)
    mean = float(credit.mean())
    if _binary(credit) and (size.max() == 1 or mean in (0.0, 1.0)):
        interval = stats.binomtest(round(mean * size.size), size.size).proportion_ci(LEVEL, method="wilson")
        return Estimate(mean, float(interval.low), float(interval.high), "Wilson")
    if size.size == 1:  # one cluster says nothing about the others
        return Estimate(mean, 0.0, 1.0, "cluster bootstrap")
    low, high, _ = _bootstrap(total, size)
    return Estimate(mean, low, high, "cluster bootstrap")


def paired(credit: Array, other: Array, cluster: Sequence[object], margin: float = 0.01) -> Difference:
    """Compare two methods on the same samples; `credit` and `other` are [n], the margin is a share (0.01: one point).

    p: the signs of whole clusters are flipped (9,999 draws, or all of them where there are no more). With one item a
    cluster and credits of 0 or 1 that is exact McNemar, which is computed instead.

    Interval and p_margin: percentile bootstrap of clusters, after two made ones of mean size, one won and one lost
    entirely, have joined (Bonett and Price's adjustment of the paired interval, 2012). Without them, two methods that
    agree on every one of ten samples would count as proven equal.
    """
    delta = credit - other
    total, size = _by_cluster(delta, cluster)
    single = bool(size.max() == 1) and _binary(credit) and _binary(other)
    made = size.mean()
    low, high, draws = _bootstrap(np.append(total, [made, -made]), np.append(size, [made, made]))
    beyond = max(np.count_nonzero(draws >= margin), np.count_nonzero(draws <= -margin))
    return Difference(
        value=float(delta.mean()),
        low=low,
        high=high,
        p=_mcnemar(total) if single else _sign_flip(total),
        p_margin=(1 + beyond) / (1 + RESAMPLES),
        pairs=delta.size,
        rule="exact McNemar" if single else "sign-flip permutation",
    )


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: p-values that may be held against the level as if each were alone."""
    values = np.asarray(p, dtype=np.float64)
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


def _binary(credit: Array) -> bool:
    return bool(np.isin(credit, (0.0, 1.0)).all())


def _by_cluster(values: Array, cluster: Sequence[object]) -> tuple[Array, Array]:
    """Sums and sizes [clusters], in the order of first appearance."""
    names = {name: i for i, name in enumerate(dict.fromkeys(cluster))}
    index = [names[name] for name in cluster]
    return np.bincount(index, weights=values).astype(np.float64), np.bincount(index).astype(np.float64)


def _bootstrap(total: Array, size: Array) -> tuple[float, float, Array]:
    """Percentile interval and draws of sum(total) / sum(size) over clusters drawn with replacement."""
    result = stats.bootstrap(
        (total, size),
        lambda t, s, axis: t.sum(axis=axis) / s.sum(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        confidence_level=LEVEL,
        n_resamples=RESAMPLES,
        batch=_BATCH,
        rng=SEED,
    )
    interval = result.confidence_interval
    return float(interval.low), float(interval.high), result.bootstrap_distribution


def _mcnemar(total: Array) -> float:
    won, lost = np.count_nonzero(total > 0), np.count_nonzero(total < 0)
    return float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0


def _sign_flip(total: Array) -> float:
    moved = total[total != 0]  # flipping a zero changes nothing, and fewer clusters are sooner enumerated
    if moved.size < 2:  # one flip and its mirror image
        return 1.0
    test = stats.permutation_test(
        (moved,),
        lambda x, axis: x.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=_BATCH,
        rng=SEED,
    )
    return float(test.pvalue)
