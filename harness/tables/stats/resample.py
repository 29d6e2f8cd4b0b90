"""Draws from whole clusters: the bootstrap of a ratio of sums, and the sign flip of sums.

Clusters of equal sum and size are exchangeable. How often each kind of cluster is drawn is multinomial, which has the
very distribution of drawing clusters one by one and costs far less where kinds are few.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import fft

from harness.tables.frames import TablesError

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]
Clusters = Sequence[object] | npt.NDArray[Any]
"""The cluster of each sample: names, or numbers."""

LEVEL = 0.95
RESAMPLES = 9999
SEED = 20250
_BATCH = 512
_KEPT = 512  # clusters whose draws are kept (20 MB)
_COST, _COST_KEPT = 24, 64  # of a multinomial count, in clusters drawn, or drawn before (measured)
_UNITS = 60  # credits are mostly halves, thirds or tenths
_REACH = 1 << 18


def codes(cluster: Clusters, n: int) -> Index:
    """Numbers [n] of clusters, in the order of first appearance. Raises TablesError unless there are n > 0 of them."""
    if not len(cluster) == n > 0:
        raise TablesError(
            f"values and their clusters must be equally many and at least one, got {n} and {len(cluster)}"
        )
    if isinstance(cluster, np.ndarray):
        return pd.factorize(cluster)[0].astype(np.int64)
    return pd.factorize(pd.Index(list(cluster), dtype=object), use_na_sentinel=False)[0].astype(np.int64)


def by_cluster(values: Array, cluster: Clusters) -> tuple[Array, Array]:
    """Sums and sizes [clusters], in the order of first appearance. Raises TablesError for NaN and the like."""
    index = codes(cluster, values.size)
    if not np.isfinite(values).all():
        raise TablesError("every sample needs a finite value")
    return np.bincount(index, weights=values).astype(np.float64), np.bincount(index).astype(np.float64)


def bootstrap(total: Array, size: Array) -> Array:
    """Draws [RESAMPLES] of sum(total) / sum(size) over clusters drawn with replacement."""
    totals, sizes = sums(np.stack([total, size], axis=1)).T
    return np.asarray(totals / sizes)


def sums(parts: Array) -> Array:
    """Draws [RESAMPLES, parts] of the sums of parts [clusters, parts] over clusters drawn with replacement."""
    clusters = len(parts)
    kinds, counts = np.unique(parts, axis=0, return_counts=True)
    if len(kinds) * (_COST_KEPT if clusters <= _KEPT else _COST) < clusters:
        times = np.random.default_rng(SEED).multinomial(clusters, counts / clusters, RESAMPLES)
        return np.asarray(times @ kinds, dtype=np.float64)
    if clusters <= _KEPT:
        return (kept_times(clusters) @ parts.astype(np.float32)).astype(np.float64)
    return np.concatenate([times @ parts for times in drawn_times(clusters)])


def drawn_times(clusters: int, resamples: int = RESAMPLES) -> Iterator[npt.NDArray[np.float32]]:
    """How often each cluster is drawn, in batches [batch, clusters]."""
    rng = np.random.default_rng(SEED)
    for n in batches(resamples):
        drawn = rng.integers(0, clusters, (n, clusters)) + clusters * np.arange(n)[:, None]
        yield np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float32)


@lru_cache(maxsize=4)
def kept_times(clusters: int) -> npt.NDArray[np.float32]:
    """All of them [RESAMPLES, clusters]: the same for every cell of a benchmark, so they are kept."""
    return np.concatenate(list(drawn_times(clusters)))


def interval(draws: Array) -> tuple[float, float]:
    """The middle 95 % of draws."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def sign_flip(total: Array) -> float:
    """Two-sided p of sums [clusters] as large as theirs, were the sign of each as likely to be the other one.

    Exact where the sums are multiples of a common unit (1/60 at least, which halves, thirds and tenths are): the
    characteristic function of the flipped sum is the product of the cosines of its parts, and its Fourier transform
    the distribution. Else from 9,999 draws and the one seen.
    """
    seen, moved = abs(float(total.sum())), np.abs(total)
    units = np.rint(moved * _UNITS).astype(np.int64)
    if np.allclose(units, moved * _UNITS, rtol=0, atol=1e-6) and units.sum() < _REACH:
        units = units[units > 0]
        return _exact(units, seen * _UNITS) if units.size else 1.0
    rng = np.random.default_rng(SEED)
    flips = [rng.integers(0, 2, (n, moved.size), np.int8) @ moved for n in batches()]
    sums = np.abs(2 * np.concatenate(flips) - moved.sum())
    return float((1 + np.count_nonzero(sums >= seen - 1e-9)) / (1 + RESAMPLES))


def _exact(units: Index, seen: float) -> float:
    unit = int(np.gcd.reduce(units))
    steps, counts = np.unique(units // unit, return_counts=True)
    reach = int(steps @ counts)
    points = int(fft.next_fast_len(2 * reach + 1, real=True))
    angle = 2 * np.pi / points * np.arange(points // 2 + 1)
    chances = fft.irfft(np.prod(np.cos(np.outer(steps, angle)) ** counts[:, None], axis=0), points)
    beyond = 2 * chances[round(seen / unit) : reach + 1].sum() if seen else 1.0
    return float(np.clip(beyond, 2.0 ** (1 - counts.sum()), 1.0))  # what was seen, and its mirror image


def batches(resamples: int = RESAMPLES) -> list[int]:
    """Sizes of the batches that resamples come in."""
    return [min(_BATCH, resamples - done) for done in range(0, resamples, _BATCH)]
