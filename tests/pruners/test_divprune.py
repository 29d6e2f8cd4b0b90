"""DivPrune against max-min selection written out from its definition."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from harness.golden.scene import prune
from pruners import ModelInfo
from pruners.divprune import DivPrune, order

INFO = ModelInfo(name="m", depth=2, tower_depth=2)


def features(n: int, width: int, seed: int) -> Tensor:
    return torch.randn(n, width, generator=Generator().manual_seed(seed))


def brute_force(rows: list[list[float]], k: int) -> list[int]:
    """Every step looks at every pair anew, in Python's double precision."""

    def distance(i: int, j: int) -> float:
        a, b = rows[i], rows[j]
        return 1 - math.fsum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))

    everyone = range(len(rows))
    nearest = [min(distance(i, j) for j in everyone if j != i) for i in everyone]
    picked = [max(everyone, key=lambda i: nearest[i])]
    while len(picked) < k:
        left = [i for i in everyone if i not in picked]
        picked.append(max(left, key=lambda i: min(distance(i, j) for j in picked)))
    return picked


@given(st.integers(2, 14), st.integers(3, 8), st.integers(0, 10_000), st.data())
def test_equals_brute_force(n: int, width: int, seed: int, data: st.DataObject) -> None:
    x, k = features(n, width, seed), data.draw(st.integers(1, n))
    picks = order(x, k).tolist()
    assert picks == brute_force(x.tolist(), k)
    assert len(set(picks)) == k


def test_mutual_neighbours_tie() -> None:
    """The two loneliest tokens are each other's nearest: equally far, whatever rounding says of the two products."""
    assert order(features(8, 7, 1131), 1).tolist() == [2]  # 2 and 4, whose two products differ on some processors
    for seed in range(100):
        crowd, one, other = torch.linalg.qr(features(33, 3, seed)).Q.T
        x = crowd + 1e-3 * features(40, 33, seed)
        x[17], x[30] = one, one + other  # 0.29 from each other, 1 from the crowd
        assert order(x, 1).tolist() == [17]


def test_ties_go_to_the_lower_index() -> None:
    """Four axes are all equally far from each other; the fifth token repeats the first."""
    x = torch.eye(4)[[0, 1, 2, 3, 0]]
    assert order(x, 4).tolist() == [1, 0, 2, 3]  # 0 and 4 have a twin, so 1 is the first of the lonely ones
    assert order(3 * x, 4).tolist() == [1, 0, 2, 3]  # length plays no part


def test_repeats_a_token_where_nothing_new_is_left() -> None:
    """Declared by `may_repeat`: picked tokens are not masked."""
    x = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1], [1, 0]])
    assert order(x, 4).tolist() == [0, 1, 0, 0]
    selection, after = prune(DivPrune(keep=None, tokens=4), x, 0, 5, INFO)
    assert DivPrune.may_repeat and selection is not None and selection.source.tolist() == [0, 0, 0, 1]
    assert after.hidden.tolist() == [[1, 0], [1, 0], [1, 0], [0, 1]]


@pytest.mark.parametrize(("axes", "positions"), [(1, [0, 1, 2, 3, 4, 5]), (3, None)])
def test_kept_tokens_stay_in_sequence_order(axes: int, positions: list[int] | None) -> None:
    """Renumbered on one axis, ids of the full prompt under M-RoPE."""
    hidden = features(13, 6, 1)
    selection, after = prune(DivPrune(keep=0.3), hidden, 2, 10, ModelInfo(name="m", depth=2, tower_depth=2, axes=axes))
    assert selection is not None
    kept = selection.source.tolist()
    assert kept == sorted(order(hidden[2:12], 3).tolist())
    assert after.index.tolist() == [0, 1, *(2 + i for i in kept), 12]
    assert after.positions.tolist() == [positions or after.index.tolist()] * axes


@pytest.mark.parametrize(("n", "keep", "k"), [(576, 0.098, 56), (576, 1 / 3, 192), (576, 2 / 9, 128), (10, 0.01, 1)])
def test_counts(n: int, keep: float, k: int) -> None:
    assert DivPrune(keep=keep).count(n) == k


@pytest.mark.parametrize("budget", [{"keep": 1.0}, {"keep": None, "tokens": 5}, {"keep": None, "tokens": 50}])
def test_nothing_happens_within_the_budget(budget: dict[str, float]) -> None:
    selection, after = prune(DivPrune(**budget), features(7, 4, 0), 1, 5, INFO)  # type: ignore[arg-type]
    assert selection is None and len(after) == 7
    assert DivPrune(**budget).flops(INFO, "embed", 5, 4) == 0  # type: ignore[arg-type]


def test_one_token() -> None:
    assert prune(DivPrune(keep=0.1), features(3, 4, 0), 1, 1, INFO)[0] is None


def test_half_precision_is_judged_in_float32() -> None:
    x = features(40, 8, 5).bfloat16()
    assert order(x, 10).tolist() == order(x.float(), 10).tolist()
