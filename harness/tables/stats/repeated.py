"""Two methods that ran several times, with other seeds: samples and runs both vary."""

from __future__ import annotations

import numpy as np

from harness.tables.frames import TablesError
from harness.tables.stats.paired import Difference
from harness.tables.stats.resample import RESAMPLES, SEED, Array, Clusters, bootstrap, by_cluster, interval


def repeated(credit: Array, other: Array, cluster: Clusters, margin: float = 0.01) -> Difference:
    """Compare two methods over credits [n, runs] and [n, runs of the other].

    Clusters are drawn, with all their runs; and within each method the runs, independently. What runs differ by is
    first shrunk by what the noise of single replies explains, which the clusters bring already (Davison and Hinkley,
    Bootstrap Methods, 1997, section 3.8). Of r runs r - 1 are drawn, without which the spread of so few runs would come
    out too small by the factor (r - 1) / r (Rao and Wu, JASA 83, 1988). A single run says nothing of runs: the interval
    then holds for that run. Two made clusters join as in `paired`. p: twice the smaller share of draws on either side
    of no difference.

    Raises:
        TablesError: shapes that do not fit, or values that are no numbers.
    """
    if credit.ndim != 2 or other.ndim != 2 or len(credit) != len(other) or not credit.size or not other.size:
        raise TablesError(f"credits must be [samples, runs] of the same samples, got {credit.shape} and {other.shape}")
    total, size = by_cluster(credit.mean(1) - other.mean(1), cluster)
    made = size.mean()
    draws = bootstrap(np.append(total, [made, -made]), np.append(size, [made, made]))
    draws = draws + _runs(credit, cluster, 0) - _runs(other, cluster, 1)
    low, high = interval(draws)
    beyond = max(np.count_nonzero(draws >= margin), np.count_nonzero(draws <= -margin))
    side = min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0))
    return Difference(
        value=float(credit.mean() - other.mean()),
        low=low,
        high=high,
        p=min(1.0, 2 * (1 + side) / (1 + RESAMPLES)),
        p_margin=(1 + beyond) / (1 + RESAMPLES),
        pairs=len(credit),
        rule="clusters and runs",
    )


def _runs(credit: Array, cluster: Clusters, method: int) -> Array:
    """What drawn runs add to a method's accuracy [RESAMPLES]."""
    n, runs = credit.shape
    means = credit.mean(0) - credit.mean()
    if runs == 1 or not means.var():
        return np.zeros(RESAMPLES)
    left = credit - credit.mean(1, keepdims=True) - means  # neither of the sample nor of the run
    noise = sum(float((by_cluster(column, cluster)[0] ** 2).sum()) for column in left.T) / (runs - 1) / n**2
    shrunk = means * np.sqrt(max(0.0, 1 - noise / means.var(ddof=1)))
    rng = np.random.default_rng([SEED, method])
    return np.asarray(rng.multinomial(runs - 1, np.full(runs, 1 / runs), RESAMPLES) @ shrunk / (runs - 1))
