"""Accuracy relative to the full model's, over benchmarks; it is what papers call the average in per cent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from harness.tables.frames import TablesError
from harness.tables.stats.accuracy import Estimate
from harness.tables.stats.resample import RESAMPLES, SEED, Array, by_cluster, interval, sums


def relative(cells: Mapping[str, tuple[Array, Array, Sequence[object]]]) -> Estimate:
    """Mean over benchmarks of accuracy / accuracy of the full model, with a 95 % interval.

    Within a benchmark clusters are drawn once for both, so what makes them easy for both cancels out; benchmarks are
    drawn independently, and are not drawn themselves: the interval is about these benchmarks, not about others.

    Args:
        cells: by benchmark: credits, those of the full model on the same samples, and clusters, each [n].

    Raises:
        TablesError: nothing to compare, or the full model is right nowhere.
    """
    if not cells:
        raise TablesError("relative accuracy needs at least one benchmark")
    values, draws = [], np.zeros(RESAMPLES)
    for i, (name, (credit, full, cluster)) in enumerate(cells.items()):
        if not full.any():
            raise TablesError(f"{name}: the full model has no sample right, so nothing is relative to it")
        parts = np.stack([by_cluster(credit, cluster)[0], by_cluster(full, cluster)[0]], axis=1)
        ours, theirs = np.random.default_rng([SEED, i]).permutation(sums(parts)).T  # draws of equal shape are the same
        values.append(credit.mean() / full.mean())
        draws += np.divide(ours, theirs, out=np.full(RESAMPLES, np.nan), where=theirs > 0) / len(cells)
    low, high = interval(draws[np.isfinite(draws)])
    return Estimate(float(np.mean(values)), low, high, "cluster bootstrap")
