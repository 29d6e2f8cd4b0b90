"""Samples of one cluster together: the steps of a We-Math problem, the variants of a DynaMath question."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from harness.benchmarks.scoring.verdict import Scored


def by_cluster(samples: Sequence[Scored]) -> list[list[Scored]]:
    """Groups with every item at most once; repeats, or copies of a cluster in a bootstrap, are groups of their own."""
    groups: dict[tuple[str, int], list[Scored]] = defaultdict(list)
    seen: Counter[str] = Counter()
    for sample in samples:
        groups[sample.item.cluster, seen[sample.item.id]].append(sample)
        seen[sample.item.id] += 1
    return list(groups.values())


def notes(*parts: str) -> str:
    """One note of several, the empty ones left out."""
    return "; ".join(part for part in parts if part)
