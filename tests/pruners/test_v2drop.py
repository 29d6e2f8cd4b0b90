"""V2Drop against plain Python, on layers that change every token differently."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from harness.golden.scene import Bare, prefill, prune
from pruners import ModelInfo, V2Drop
from pruners.signals import Hidden

INFO = ModelInfo(name="m", depth=5, tower_depth=2)


class Changing(Bare):
    """Layer k adds sin((k + 1) x) to every channel; its attention only lets signals be recorded."""

    def layer(self, k: int, hidden: Tensor, rope: Any, attention: Any) -> Tensor:
        none = hidden.new_zeros(1, 1, hidden.shape[1], 2)
        attention.attend(k, none, none, none)
        return hidden + (hidden * (k + 1)).sin()


@given(
    st.integers(0, 3), st.integers(1, 17), st.integers(1, 3), st.integers(0, 9999), st.sampled_from([1, 3]),
    st.lists(st.sampled_from([1.0, 0.8, 0.5, 0.3, 0.0]), min_size=1, max_size=3),
)  # fmt: skip
def test_equals_brute_force(start: int, n: int, after: int, seed: int, axes: int, ratios: list[float]) -> None:
    """Ratios are of what is there, at least one token stays, and position ids do too."""
    g = Generator().manual_seed(seed)
    hidden, layers = torch.randn(start + n + after, 4, generator=g), [1, 2, 4][: len(ratios)]
    info = ModelInfo(name="m", depth=5, tower_depth=2, axes=axes)
    pruner = V2Drop(drop_at=tuple(layers), ratios=tuple(ratios))
    segment = prefill(Changing(info, hidden), pruner, torch.arange(len(hidden)), start, n).segment

    rows, now = dict(enumerate(hidden.tolist())), n
    old = rows
    for layer in range(5):
        if layer in layers:
            visual = [i for i in rows if start <= i < start + n]
            variation = {i: math.dist(rows[i], old[i]) for i in visual}
            now = max(1, math.floor(ratios[layers.index(layer)] * now + 1e-9))
            best = sorted(visual, key=lambda i: (-variation[i], i))[:now]
            rows = {i: row for i, row in rows.items() if i not in visual or i in best}
        old = rows
        rows = {i: [x + math.sin(x * (layer + 1)) for x in row] for i, row in rows.items()}
    assert segment.index.tolist() == list(rows)
    assert segment.positions.tolist() == [list(rows)] * axes
    assert segment.next_position == len(hidden)
    torch.testing.assert_close(segment.hidden, torch.tensor(list(rows.values())), atol=1e-4, rtol=1e-4)


def test_ties_and_precision() -> None:
    """Equal variations keep the first tokens; bfloat16 values are compared in float32."""
    pruner = V2Drop(drop_at=(1,), ratios=(0.5,))
    _, after = prune(pruner, torch.ones(8, 3), 1, 6, INFO, {Hidden(0): torch.zeros(6, 3)})
    assert after.index.tolist() == [0, 1, 2, 3, 7]
    rows = torch.randn(2, 40, 6, generator=Generator().manual_seed(0)).bfloat16()
    kept = [
        prune(pruner, now, 0, 40, INFO, {Hidden(0): before})[1].index.tolist()
        for before, now in (rows, rows.float(), rows.double())
    ]
    assert kept[0] == kept[1] == kept[2] and len(kept[0]) == 20


def test_counts_are_rounded_stage_by_stage() -> None:
    assert V2Drop(ratios=(0.5, 0.3, 0.0)).left(27, 32) == {3: 13, 17: 3, 22: 1}
    near = V2Drop(keep=0.333).left(576, 32)
    assert near == V2Drop(keep=1 / 3).left(576, 32) == {3: 288, 17: 86, 22: 1}  # the paper's schedule for 192
