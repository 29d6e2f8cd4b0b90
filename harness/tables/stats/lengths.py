"""Lengths of traces against each other."""

from __future__ import annotations

import numpy as np

from harness.tables.frames import TablesError
from harness.tables.stats.accuracy import Estimate
from harness.tables.stats.resample import Array, Clusters, bootstrap, by_cluster, interval


def log_ratio(length: Array, other: Array, cluster: Clusters) -> Estimate:
    """Geometric mean of length / other [pairs], with a 95 % interval; 1.1 stands for traces one tenth longer.

    Which pairs to pass is the caller's choice: those that both finished, or that both are right. One cluster says
    nothing of others: its interval is everything.

    Raises:
        TablesError: no pairs, or lengths that are not above 0.
    """
    if length.shape != other.shape or not ((length > 0) & (other > 0)).all():
        raise TablesError("lengths must be pairs of numbers above 0")
    logs = np.log(length) - np.log(other)
    total, size = by_cluster(logs, cluster)
    low, high = interval(bootstrap(total, size)) if size.size > 1 else (-np.inf, np.inf)
    value, low, high = (float(np.exp(x)) for x in (logs.mean(), low, high))
    return Estimate(value, low, high, "cluster bootstrap")
