"""Two methods that ran several times, with other seeds: samples and runs both vary."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.tables.frames import TablesError
from harness.tables.stats.paired import Difference
from harness.tables.stats.resample import RESAMPLES, SEED, Array, by_cluster, codes, interval, sums


def repeated(credit: Array, other: Array, cluster: Sequence[object], margin: float = 0.01) -> Difference:
    """Compare two methods over credits [n, runs] and [n, runs of the other].

    Clusters are drawn, and within each method its runs, independently. Of r runs r - 1 are drawn, without which the
    spread of so few runs would come out too small by the factor (r - 1) / r (Rao and Wu, JASA 83, 1988); a single run
    says nothing of runs, and the interval then holds for that run. Drawing both is on the safe side: what is peculiar
    to single replies counts up to three times (Owen, Annals of Applied Statistics 1, 2007). The two made clusters are
    those of `paired`. p: twice the smaller share of draws on either side of no difference.

    Raises:
        TablesError: shapes that do not fit, or values that are no numbers.
    """
    if credit.ndim != 2 or other.ndim != 2 or len(credit) != len(other) or not credit.size or not other.size:
        raise TablesError(f"credits must be [samples, runs] of the same samples, got {credit.shape} and {other.shape}")
    runs = [
        by_cluster(column, cluster)[0] / x.shape[1] * sign for x, sign in ((credit, 1), (other, -1)) for column in x.T
    ]
    size = np.bincount(codes(cluster, len(credit))).astype(np.float64)
    parts = np.stack([*runs, size], axis=1)
    made = size.mean() * np.array([*np.full(credit.shape[1], 1 / credit.shape[1]), *np.zeros(other.shape[1]), 0])
    made = np.stack([made, -made]) + np.array([*np.zeros(len(runs)), size.mean()])
    drawn = sums(np.concatenate([parts, made]))
    draws = (drawn[:, :-1] * np.hstack([_runs(x.shape[1], i) for i, x in enumerate((credit, other))])).sum(1)
    draws /= drawn[:, -1]
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


def _runs(runs: int, method: int) -> Array:
    """Weights [RESAMPLES, runs] of mean 1."""
    if runs == 1:
        return np.ones((RESAMPLES, 1))
    rng = np.random.default_rng([SEED, method])
    return np.asarray(rng.multinomial(runs - 1, np.full(runs, 1 / runs), RESAMPLES) * (runs / (runs - 1)))
