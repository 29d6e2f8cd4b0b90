"""VisPruner against rounds of comparisons written out in plain Python."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Generator, Tensor

from harness.golden.scene import prune
from pruners import ModelInfo, PrunerError, VisPruner
from pruners.signals import Signal, TowerAttention, TowerHidden
from pruners.vispruner import least_alike

CLIP = ModelInfo(name="clip", depth=2, tower_depth=4, has_cls=True, feature_layer=-2, tower_heads=2, tower_head_dim=3)


def features(n: int, width: int, seed: int) -> Tensor:
    return torch.randn(n, width, generator=Generator().manual_seed(seed))


def rounds(rows: list[list[float]], left: list[int], k: int) -> tuple[list[int], float]:
    """What is left of a list of tokens, and the smallest distance between two cosines that were compared."""

    def cosine(i: int, j: int) -> float:
        a, b = rows[i], rows[j]
        return math.fsum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))

    gap = math.inf
    while len(left) > k > 0:
        first, second = left[0::2], left[1::2]
        closest = {i: max(cosine(i, j) for j in second) for i in first}
        ordered = sorted(closest.values())
        gap = min([gap, *(b - a for a, b in pairwise(ordered))])
        first.sort(key=lambda i: -closest[i])
        left = first[min(8, len(left) - k) :] + second
    return left[:k], gap


@given(st.integers(2, 40), st.integers(2, 6), st.sampled_from([0, 0.3, 0.5, 1.0]), st.integers(0, 10_000), st.data())
def test_equals_brute_force(n: int, width: int, important: float, seed: int, data: st.DataObject) -> None:
    """Any budget and any parity of what is left to compare, which the official code does not have."""
    x, k = features(n, width, seed), data.draw(st.integers(1, n - 1))
    scores = data.draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))
    signals: dict[Signal, Tensor] = {TowerAttention(-2, "cls"): torch.tensor(scores) / 9, TowerHidden(-2): x}
    pruner = VisPruner(keep=None, tokens=k, important=important)
    selection, _ = prune(pruner, features(n, 2, 0), 0, n, CLIP, signals)
    order = sorted(range(n), key=lambda i: (-scores[i], i))
    top = int(k * important)
    left, gap = rounds(x.tolist(), order[top:], k - top)
    assume(gap > 1e-12)
    assert selection is not None and selection.source.tolist() == sorted(order[:top] + left)
    assert pruner.flops(CLIP, "embed", n, 99) == 2 * (n - top) ** 2 * 6


def test_twins_leave_first() -> None:
    """Ten pairs of equal tokens: the first round takes one each of the first eight, as ties go to the earlier place."""
    x = torch.eye(10).repeat_interleave(2, dim=0)
    assert least_alike(x, 12).tolist() == [16, 18, *range(1, 20, 2)]


def test_precision_changes_nothing() -> None:
    """Values that half precision can hold, in three types."""
    x = features(200, 16, 1).bfloat16()
    picks = [least_alike(copy, 20).tolist() for copy in (x, x.float(), x.double())]
    assert picks[0] == picks[1] == picks[2]


@pytest.mark.parametrize("important", [-0.1, 1.1])
def test_bad_shares(important: float) -> None:
    with pytest.raises(PrunerError, match="important"):
        VisPruner(important=important)
