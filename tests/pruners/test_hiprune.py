"""HiPrune against anchors and neighbours written out on a grid in plain Python."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pruners import HiPrune, ModelInfo, PrunerError
from pruners.signals import Signal, TowerAttention
from tests.pruners.test_methods import view

CLIP = ModelInfo(name="clip", depth=2, tower_depth=24, has_cls=True, feature_layer=-2)
QWEN = ModelInfo(name="qwen", depth=2, tower_depth=32, unit=4, axes=3)


def best(scores: list[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))


def beside(i: int, rows: int, columns: int, repaired: bool) -> set[int]:
    """A place and its neighbours: on the grid, or as the official code counts them."""
    row, column = divmod(i, columns)
    if repaired:
        cross = {(row, column), (row, column - 1), (row, column + 1), (row - 1, column), (row + 1, column)}
        return {r * columns + c for r, c in cross if 0 <= r < rows and 0 <= c < columns}
    return {min(max(j, 0), rows * columns - 1) for j in (i, i - 1, i + 1, i - columns, i + columns)}


@given(st.integers(1, 6), st.integers(1, 7), st.sampled_from([0, 0.1, 0.5, 1.0]), st.booleans(), st.data())
def test_equals_brute_force(rows: int, columns: int, alpha: float, repaired: bool, data: st.DataObject) -> None:
    """Ties included: to the lower index."""
    n = rows * columns
    k = data.draw(st.integers(1, n))
    levels = st.lists(st.integers(0, 8), min_size=n, max_size=n)
    middle, deep = ([x / 8 for x in data.draw(levels)] for _ in range(2))
    pruner = HiPrune(keep=None, tokens=k, alpha=alpha, repaired=repaired).resolved(CLIP)
    known: dict[Signal, Tensor] = dict(zip(pruner.signals(CLIP), map(torch.tensor, (middle, deep)), strict=True))
    selection = pruner.at_embed(replace(view(rows, columns), record=lambda signal, index: known[signal]))
    anchors = best(middle)[: min(k // 5, round(k * alpha / 5))]
    first = set().union(*(beside(i, rows, columns, repaired) for i in anchors))
    rest = [i for i in best(deep) if i not in first]
    if k == n:
        assert selection is None
    else:
        assert selection is not None and selection.source.tolist() == sorted([*first, *rest[: k - len(first)]])


@pytest.mark.parametrize(("repaired", "kept"), [(False, [7, 8, 9, 12, 4]), (True, [8, 9, 12, 4, 5])])
def test_the_end_of_a_row(repaired: bool, kept: list[int]) -> None:
    """An anchor in the first column of four: the last token of the row above comes with it, unless repaired."""
    middle, deep = (torch.tensor([float(i == j) for i in range(16)]) for j in (8, 5))
    pruner = HiPrune(keep=None, tokens=5, alpha=1.0, repaired=repaired).resolved(CLIP)
    known = dict(zip(pruner.signals(CLIP), (middle, deep), strict=True))
    selection = pruner.at_embed(replace(view(4, 4), record=lambda signal, index: known[signal]))
    assert selection is not None and selection.source.tolist() == sorted(kept)


def test_what_the_model_has_decides() -> None:
    """Layer 9 of CLIP and 16 of Qwen2.5-VL, counted from one; attention received in both layers."""
    for info, middle, deep in ((CLIP, 8, -2), (QWEN, 15, -1)):
        explicit = HiPrune().resolved(info)
        assert explicit.signals(info) == HiPrune().signals(info)
        assert explicit.signals(info) == tuple(TowerAttention(layer, "received", "mean") for layer in (middle, deep))
        assert explicit.resolved(info) == explicit and explicit.object_layer == middle
        explicit.check(info)
    assert HiPrune(object_layer="1/2").resolved(CLIP).object_layer == 12
    with pytest.raises(PrunerError, match="layer 24 does not fit a model of 24"):
        HiPrune(object_layer=24).check(CLIP)


@pytest.mark.parametrize("options", [{"alpha": -0.1}, {"alpha": 1.1}], ids=str)
def test_bad_shares(options: dict[str, Any]) -> None:
    with pytest.raises(PrunerError, match="alpha"):
        HiPrune(**options)
