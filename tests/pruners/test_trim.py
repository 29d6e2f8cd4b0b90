"""TRIM against plain Python over its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from harness.golden.clip_rules import asked
from harness.golden.rules import LLAVA, QWEN
from pruners import PrunerError
from pruners.signals import ClipPatches, TowerHidden
from pruners.trim import TRIM


def case(n: int, seed: int, segments: int) -> tuple[Tensor, Tensor, Tensor]:
    """Patches [n, 4], tower states [n, 5] and a question [S, 4]."""
    g = Generator().manual_seed(seed)
    return tuple(torch.randn(*shape, generator=g) for shape in ((n, 4), (n, 5), (segments, 4)))  # type: ignore[return-value]


@given(st.integers(2, 40), st.integers(0, 10_000), st.integers(1, 3), st.booleans(), st.data())
def test_equals_brute_force(n: int, seed: int, segments: int, adaptive: bool, data: st.DataObject) -> None:
    """Least like the question, in raster order, the mean of the others behind them; a budget of one is the mean."""
    patches, hidden, text = case(n, seed, segments)
    k = data.draw(st.integers(1, n - 1))
    question = [math.fsum(column) / segments for column in zip(*text.tolist(), strict=True)]
    like = [math.fsum(x * y for x, y in zip(row, question, strict=True)) for row in patches.tolist()]
    picks = k - 1
    if adaptive:
        scores = np.exp([-x for x in like])
        scores /= scores.sum()
        low, high = np.percentile(scores, [25, 75])
        picks = int(n * (int((scores > high + 1.5 * (high - low)).sum()) / n))
    kept = sorted(sorted(range(n), key=lambda i: (like[i], i))[:picks])
    pruner = TRIM(keep=None, tokens=k, adaptive=adaptive)
    selection, after = asked(pruner, hidden, text, {ClipPatches(-2): patches, TowerHidden(-2): 2 * hidden})
    rest = [i for i in range(n) if i not in kept]
    assert selection.source.tolist() == [*kept, -1]
    torch.testing.assert_close(after.hidden, 2 * torch.stack([*hidden[kept], hidden[rest].mean(0)]))
    assert after.positions.tolist() == [list(range(picks + 1))]
    assert after.size.tolist() == [1] * picks + [len(rest)]


def test_ties_and_budgets() -> None:
    """Equal scores keep the first tokens; the mean counts, as in the paper's 64 tokens; nothing within the budget."""
    signals = {ClipPatches(-2): torch.ones(9, 4), TowerHidden(-2): torch.arange(9.0)[:, None]}
    selection, after = asked(TRIM(keep=1 / 3), torch.zeros(9, 1), torch.ones(1, 4), signals)
    assert selection.source.tolist() == [0, 1, -1] and after.hidden.tolist() == [[0], [1], [5]]
    assert TRIM(keep=1 / 9).count(576) == TRIM(keep=None, tokens=64).count(576) == 64
    _, after = asked(TRIM(keep=None, tokens=9), torch.zeros(9, 1), torch.ones(1, 4), signals)
    assert not after.kept  # nothing was chosen


def test_where_it_cannot_act() -> None:
    for model in (LLAVA, QWEN):
        with pytest.raises(PrunerError, match="tower without CLIP text"):
            TRIM().check(model)
