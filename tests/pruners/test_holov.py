"""HoloV against strips, budgets and picks written out in plain Python."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Generator

from harness.engine.segment import Segment
from harness.golden.scene import prune
from pruners import HoloV, ModelInfo, PrunerError, Selection
from pruners.signals import TowerAttention

CLIP = ModelInfo(name="clip", depth=2, tower_depth=4, has_cls=True, feature_layer=-2)
QWEN = ModelInfo(name="qwen", depth=2, tower_depth=4, unit=4, axes=3)


class Spent(NamedTuple):
    """Tokens of every strip in descending order of attention, how many it may keep, and how clear that was."""

    strips: list[list[int]]
    budgets: list[int]
    clear: bool

    @classmethod
    def of(cls, scores: list[float], count: int, k: int) -> Spent:
        strips, means, start = [], [], 0
        for c in range(count):
            size = len(scores) // count + (c < len(scores) % count)
            strip = range(start, start + size)
            means.append(sum(scores[i] for i in strip) / size)
            strips.append(sorted(strip, key=lambda i: -scores[i]))
            start += size
        exact = [mean / sum(means) * k for mean in means]
        budgets = [int(share) for share in exact]
        for c in sorted(range(count), key=lambda c: -means[c])[: k - sum(budgets)]:
            budgets[c] += 1
        return cls(strips, budgets, all(1e-4 < share % 1 < 1 - 1e-4 for share in exact))

    def faithful(self, k: int) -> list[int]:
        """What strips keep, strip by strip, and -1 for what they have no token for."""
        kept: list[int] = []
        for strip, budget in zip(self.strips, self.budgets, strict=True):
            kept += strip[:budget] if budget < len(strip) else sorted(strip)  # whole strips stay as they are
        return kept + [-1] * (k - len(kept))

    def repaired(self, scores: list[float], k: int) -> list[int]:
        """The same tokens and the best of the others, in raster order."""
        kept = [i for i in self.faithful(k) if i >= 0]
        others = sorted(set(range(len(scores))) - set(kept), key=lambda i: -scores[i])
        return sorted(kept + others[: k - len(kept)])


def drawn(n: int, seed: int) -> torch.Tensor:
    """Attention with a few large entries, as a softmax has."""
    return torch.randn(n, generator=Generator().manual_seed(seed)).mul(2).softmax(0)


def run(scores: torch.Tensor, info: ModelInfo, **options: Any) -> tuple[torch.Tensor, Selection, Segment]:
    """Hidden states of two text tokens, the picture and one text token; what is selected; what is left."""
    hidden = torch.randn(len(scores) + 3, 4, generator=Generator().manual_seed(len(scores)))
    signal = TowerAttention(info.feature_layer, "cls" if info.has_cls else "received")
    selection, after = prune(HoloV(keep=None, **options), hidden, 2, len(scores), info, {signal: scores})
    assert selection is not None
    return hidden, selection, after


@given(st.integers(2, 40), st.integers(0, 10_000), st.sampled_from([CLIP, QWEN]), st.booleans(), st.data())
def test_equals_brute_force(n: int, seed: int, info: ModelInfo, repaired: bool, data: st.DataObject) -> None:
    """Any number of strips, with and without more budget than a strip can spend."""
    k, strips = data.draw(st.integers(1, n - 1)), data.draw(st.integers(1, n))
    scores = drawn(n, seed)
    spent = Spent.of(scores.tolist(), strips, k)
    assume(spent.clear or strips == 1)
    hidden, selection, after = run(scores, info, tokens=k, strips=strips, repaired=repaired)
    want = spent.repaired(scores.tolist(), k) if repaired else spent.faithful(k)
    assert selection.source.tolist() == want
    rows = [hidden[2 + i] if i >= 0 else torch.zeros(4) for i in want]
    assert torch.equal(after.hidden, torch.stack([*hidden[:2], *rows, hidden[-1]]))
    last = n + 1  # zero rows have the position of the picture's last token
    ids = [0, 1, *(2 + i if i >= 0 else last for i in want), n + 2]
    assert after.positions.tolist() == [ids if info.axes == 3 else list(range(k + 3))] * info.axes
    assert after.size.tolist() == [1] * (k + 3)


def test_overflow() -> None:
    """All attention in one of four strips of four: twelve of its sixteen tokens are lost, unless repaired."""
    scores = torch.tensor([1e-6] * 4 + [0.1, 0.4, 0.2, 0.3] + [1e-6] * 8)
    _, selection, _ = run(scores, CLIP, tokens=8, strips=4)
    assert HoloV.may_pad and selection.source.tolist() == [4, 5, 6, 7, -1, -1, -1, -1]
    _, selection, _ = run(scores, CLIP, tokens=8, strips=4, repaired=True)
    assert selection.source.tolist() == list(range(8))


@pytest.mark.parametrize(("k", "strips"), [(64, 16), (128, 8), (192, 5), (500, 2), (575, 1), (1, 576)])
def test_strips_by_budget(k: int, strips: int) -> None:
    """The official numbers for 576 tokens; never none, never more than there are tokens."""
    scores = drawn(576, k)
    ours, official = (run(scores, CLIP, tokens=k, **options)[1].source for options in ({}, {"strips": strips}))
    assert torch.equal(ours, official)


def test_ties_go_to_the_first() -> None:
    """Equal strips: one token more for the first two, each strip's first ones."""
    _, selection, _ = run(torch.ones(16), CLIP, tokens=6, strips=4)
    assert selection.source.tolist() == [0, 1, 4, 5, 8, 12]


@pytest.mark.parametrize("strips", [0, -3])
def test_bad_strips(strips: int) -> None:
    with pytest.raises(PrunerError, match="strips"):
        HoloV(strips=strips)
