"""Metrics as ratios of sums over clusters, so that a resample costs one product of matrices.

F1 is one: twice the true positives over the replies "yes" and the labels "yes" together. So is every share of units
(problems, questions) that lie within clusters: what a cluster's own value and number of units say. Values of several
categories are averaged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from harness.benchmarks.scoring import METRICS, Measure, Scored
from harness.benchmarks.scoring.yesno import CATEGORIES
from harness.tables.stats.resample import SEED, Array

Groups = list[list[Scored]]
"""Samples by cluster."""

_CHECKS = 5


def find_parts(name: str, cells: Sequence[Groups]) -> Array | None:
    """Parts [clusters of all cells, categories, 3] that sum to numerator, denominator and count; None: it has none."""
    if name in _SAMPLE:
        found = [[_SAMPLE[name](sample) for sample in group] for groups in cells for group in groups]
        places = {key: i for i, key in enumerate(dict.fromkeys(key for group in found for key, *_ in group if key))}
        parts = np.zeros((len(found), len(places), 3))
        for total, group in zip(parts, found, strict=True):
            for key, top, bottom in group:
                if key:
                    total[places[key]] += top, bottom, 1
        return parts
    if name.startswith("mme."):
        return _points(name, [group for groups in cells for group in groups])
    units = [_units(name, groups) for groups in cells]
    fits = all(_fits(name, groups, part) for groups, part in zip(cells, units, strict=True))
    return np.concatenate(units) if fits else None


def ratio(sums: Array) -> Array:
    """Values [draws] of sums [draws, categories, 3]; nothing over nothing is 0, as in scoring, NaN where no unit is."""
    top, bottom, count = np.moveaxis(sums, -1, 0)
    values = np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
    there = count > 0
    return np.asarray(np.divide((values * there).sum(-1), there.sum(-1), out=np.full(len(sums), np.nan),
                                where=there.any(-1)))  # fmt: skip


def _points(name: str, pictures: Groups) -> Array:
    """MME's sum over categories as a mean over them: each picture's share by the number of categories."""
    places = {category: i for i, category in enumerate(dict.fromkeys(g[0].item.category for g in pictures if g))}
    measures = [METRICS[name](group) for group in pictures]
    counted = len({group[0].item.category for group, m in zip(pictures, measures, strict=True) if m.n})
    parts = np.zeros((len(pictures), len(places), 3))
    for total, group, m in zip(parts, pictures, measures, strict=True):
        if group:
            total[places[group[0].item.category]] = counted * (m.value or 0.0) * m.n, m.n, m.n
    return parts


def _units(name: str, groups: Groups) -> Array:
    """What each cluster by itself says: its value times its units, and its units."""
    size = Counter(len(group) for group in groups if group)
    usual = max(size.items(), key=lambda kind: (kind[1], kind[0]))[0] if size else 0
    odd = name == "dynamath.worst"  # leaves out questions without the usual number of variants
    measures = [METRICS[name](g) if not odd or len(g) == usual else Measure(None, 0) for g in groups]
    return np.array([[[(m.value or 0.0) * m.n, m.n, m.n]] for m in measures], dtype=np.float64)


def _fits(name: str, groups: Groups, parts: Array) -> bool:
    """Whether parts give the metric of all clusters and of some resamples."""
    rng = np.random.default_rng(SEED)
    drawn = [np.arange(len(groups)), *rng.integers(0, len(groups), (_CHECKS, len(groups)))]
    for chosen in drawn:
        measure = METRICS[name]([sample for i in chosen for sample in groups[i]])
        sums = parts[chosen].sum(0, keepdims=True)
        value = np.nan if measure.value is None else measure.value
        if not np.isclose(ratio(sums)[0], value, equal_nan=True) or (sums[0, 0, 1] != measure.n):
            return False
    return True


def _macro(sample: Scored) -> tuple[str, float, float]:
    return f"category {sample.item.category}", sample.verdict.value or 0.0, 1.0


def _f1(sample: Scored, *, unread: bool = True) -> tuple[str, float, float]:
    label, said = sample.item.answer == "yes", sample.verdict.extracted
    return "all", 2.0 * (label and said == "yes"), (said == "yes") + float(label and (unread or said is not None))


def _category_f1(sample: Scored) -> tuple[str, float, float]:
    category = sample.item.category
    return category if category in CATEGORIES else "", *_f1(sample)[1:]


def _precision(sample: Scored) -> tuple[str, float, float]:
    said = sample.verdict.extracted == "yes"
    return "all", float(said and sample.item.answer == "yes"), float(said)


def _recall(sample: Scored) -> tuple[str, float, float]:
    label = sample.item.answer == "yes"
    return "all", float(label and sample.verdict.extracted == "yes"), float(label)


_SAMPLE: dict[str, Callable[[Scored], tuple[str, float, float]]] = {
    "macro": _macro,
    "pope.llava_mean_f1": _category_f1,
    "pope.lmms_pooled": lambda sample: _f1(sample, unread=False),
    "pope.vlmevalkit": _f1,
    "pope.precision": _precision,
    "pope.recall": _recall,
}
"""Category (none: left out), numerator and denominator of one sample."""
