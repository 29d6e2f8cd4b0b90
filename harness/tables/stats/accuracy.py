"""Accuracy of one cell with its interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.tables.stats.resample import LEVEL, Array, Clusters, bootstrap, by_cluster, interval


@dataclass(frozen=True)
class Estimate:
    """A value (a mean credit, if nothing else is said) with its 95 % interval, and the rule that gave the interval."""

    value: float
    low: float
    high: float
    rule: Literal["Wilson", "cluster bootstrap"]


def accuracy(credit: Array, cluster: Clusters) -> Estimate:
    """Mean of credits [n] with a 95 % interval.

    Wilson where every cluster has one item and credits are 0 or 1; else the percentile cluster bootstrap. All credits 0
    or all 1 would leave the bootstrap nothing to vary: there Wilson counts each cluster once.
    """
    total, size = by_cluster(credit, cluster)
    mean = float(credit.mean())
    if binary(credit) and (size.max() == 1 or mean in (0.0, 1.0)):
        return wilson(mean, size.size)
    if size.size == 1:  # one cluster says nothing about the others
        return Estimate(mean, 0.0, 1.0, "cluster bootstrap")
    return Estimate(mean, *interval(bootstrap(total, size)), "cluster bootstrap")


def binary(credit: Array) -> bool:
    """Whether credits are all or nothing."""
    return bool(((credit == 0) | (credit == 1)).all())


def wilson(share: float, n: int) -> Estimate:
    """A share of n, with Wilson's interval."""
    from scipy import stats  # a second, which tables of clusters do without

    found = stats.binomtest(round(share * n), n).proportion_ci(LEVEL, method="wilson")
    return Estimate(share, float(found.low), float(found.high), "Wilson")
