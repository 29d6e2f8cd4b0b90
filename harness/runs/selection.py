"""Which samples a command runs: nested subsets of whole clusters, and shards of them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from harness.benchmarks.base import Item
from harness.runs.config import SubsetConfig
from harness.runs.errors import InputError


def select(items: Sequence[Item], limit: int | None, subset: SubsetConfig) -> list[int]:
    """Indices of at most `limit` items, ascending.

    Clusters are put in one order that does not depend on `limit`, and taken whole from its front while they fit (the
    first always does), so a smaller subset lies inside a larger one. "first" is the benchmark's order; "stratified"
    spreads every category evenly over the order, each shuffled by the seed.
    """
    if limit is None or limit >= len(items):
        return list(range(len(items)))
    clusters: dict[str, list[int]] = {}
    category: dict[str, str] = {}
    for i, item in enumerate(items):
        clusters.setdefault(item.cluster, []).append(i)
        category.setdefault(item.cluster, item.category)
    order = list(clusters) if subset.mode == "first" else _stratified(category, subset.seed)
    taken: list[int] = []
    for cluster in order:
        if taken and len(taken) + len(clusters[cluster]) > limit:
            break
        taken += clusters[cluster]
    return sorted(taken)


def _stratified(category: dict[str, str], seed: int) -> list[str]:
    """Clusters ordered by their relative rank inside their shuffled category."""
    ranks: list[tuple[float, float, str]] = []
    for name in sorted(set(category.values())):
        rng = random.Random(f"subset/{seed}/{name}")
        mine = sorted((c for c in category if category[c] == name), key=lambda _: rng.random())
        ranks += [((i + 0.5) / len(mine), rng.random(), cluster) for i, cluster in enumerate(mine)]
    return [cluster for _, _, cluster in sorted(ranks)]


def parse_shard(text: str | None) -> tuple[int, int]:
    """(i, n) of "i/n", counted from 0; (0, 1) for None."""
    if text is None:
        return 0, 1
    i, slash, n = text.partition("/")
    if not (slash and i.isdecimal() and n.isdecimal() and int(i) < int(n)):
        raise InputError(f"shard must be i/n with i from 0 to n - 1, got {text}")
    return int(i), int(n)
