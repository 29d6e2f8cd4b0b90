"""PyramidDrop, stage by stage, against plain Python; schedules, which V2Drop shares; batches of golden files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from harness.golden import check_file
from harness.golden.scene import Bare, prefill
from pruners import ModelInfo, PrunerError, PyramidDrop, V2Drop
from pruners.staged import Staged

WIDTH = 4  # channels of a head


class Attending(Bare):
    """Layers that change nothing; queries and keys are products with weights of every layer, plus the position id."""

    def __init__(self, info: ModelInfo, hidden: Tensor, heads: int, groups: int, seed: int) -> None:
        super().__init__(info, hidden)
        g = Generator().manual_seed(seed)
        self.q = torch.randn(info.depth, heads * groups, hidden.shape[1], WIDTH, generator=g)
        self.k = torch.randn(info.depth, heads, hidden.shape[1], WIDTH, generator=g)

    def qk(self, k: int, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        turn = 0.1 * positions[0, :, None].to(hidden)
        return hidden @ self.q[k].to(hidden) + turn, hidden @ self.k[k].to(hidden) - turn


def attention(q: list[list[list[float]]], k: list[list[list[float]]]) -> list[float]:
    """The last query's attention to every key, mean over heads; groups of query heads share a key head."""
    total = [0.0] * len(k[0])
    for h, rows in enumerate(q):
        keys = k[h // (len(q) // len(k))]
        logits = [math.fsum(a * b for a, b in zip(rows[-1], key, strict=True)) / math.sqrt(WIDTH) for key in keys]
        weights = [math.exp(logit - max(logits)) for logit in logits]
        total = [t + w / math.fsum(weights) / len(q) for t, w in zip(total, weights, strict=True)]
    return total


def brute_force(
    model: Attending, start: int, n: int, stages: list[tuple[int, float]], renumber: bool
) -> tuple[list[int], list[int]]:
    """Places in the prompt that are left after all stages, and their position ids."""
    left = list(range(len(model.table)))
    ids = list(left)
    for layer, ratio in stages:
        q, k = model.qk(layer, model.table[left].double(), torch.tensor([ids]))
        row = attention(q.tolist(), k.tolist())
        visual = [i for i, place in enumerate(left) if start <= place < start + n]
        count = max(1, math.floor(ratio * n))
        if count >= len(visual):
            continue
        best = sorted(visual, key=lambda i: (-row[i], i))[:count]
        keep = [i for i in range(len(left)) if i not in visual or i in best]
        left, ids = [left[i] for i in keep], [ids[i] for i in keep]
        ids = list(range(len(ids))) if renumber else ids
    return left, ids


@given(
    st.integers(0, 3), st.integers(1, 17), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3),
    st.integers(0, 9999), st.lists(st.sampled_from([1.0, 0.75, 0.5, 0.25, 0.1, 0.0]), min_size=1, max_size=3),
    st.sampled_from([1, 3]),
)  # fmt: skip
def test_equals_brute_force(
    start: int, n: int, after: int, heads: int, groups: int, seed: int, ratios: list[float], axes: int
) -> None:
    """Every stage ranks anew what the one before left, with ids renumbered on one axis and kept under M-RoPE."""
    ratios.sort(reverse=True)
    info = ModelInfo(name="m", depth=5, tower_depth=2, axes=axes)
    hidden = torch.randn(start + n + after, 6, generator=Generator().manual_seed(seed))
    model = Attending(info, hidden, heads, groups, seed)
    layers = [1, 3, 4][: len(ratios)]
    pruner = PyramidDrop(drop_at=tuple(layers), ratios=tuple(ratios))
    segment = prefill(model, pruner, torch.arange(len(hidden)), start, n).segment
    left, ids = brute_force(model, start, n, list(zip(layers, ratios, strict=True)), renumber=axes == 1)
    assert segment.index.tolist() == left
    assert segment.positions.tolist() == [ids] * axes
    assert segment.next_position == (len(left) if axes == 1 and len(left) < len(hidden) else len(hidden))


def test_ties_and_precision() -> None:
    """Equal scores keep the first tokens; bfloat16 values rank alike in any precision."""
    model = Attending(ModelInfo(name="m", depth=2, tower_depth=2), torch.zeros(9, 6), 1, 1, 0)
    pruner = PyramidDrop(drop_at=(1,), ratios=(0.5,), positions="keep")
    model.qk = lambda k, hidden, positions: (hidden[None], hidden[None])  # type: ignore[method-assign]
    assert prefill(model, pruner, torch.arange(9), 1, 7).segment.index.tolist() == [0, 1, 2, 3, 8]
    rows = torch.randn(40, 6, generator=Generator().manual_seed(1)).bfloat16()
    kept = []
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        model.table = rows.to(dtype)
        kept.append(prefill(model, pruner, torch.arange(40), 1, 30).segment.index.tolist())
    assert kept[0] == kept[1] == kept[2] and len(kept[0]) == 25


def lengths(pruner: Staged, n: int, depth: int) -> list[int]:
    left, now, out = pruner.left(n, depth), n, []
    for layer in range(depth):
        now = min(now, left.get(layer, now))
        out.append(now)
    return out


def test_published_schedules() -> None:
    """LLaVA-1.5-7B: 270 tokens in the mean by PyramidDrop's own schedule, 203 by that of V2Drop's code."""
    assert PyramidDrop().left(576, 32) == {8: 288, 16: 144, 24: 72}
    assert V2Drop().left(576, 32) == {3: 288, 17: 144, 22: 1}
    assert [round(sum(lengths(p, 576, 32)) / 32) for p in (PyramidDrop(), V2Drop())] == [270, 203]
    assert [list(V2Drop(tokens=t).left(576, 32).values()) for t in (192, 128, 64)] == [
        [288, 86, 1], [161, 40, 1], [28, 1, 1],
    ]  # fmt: skip
    assert V2Drop(keep=1 / 9).left(576, 32) == V2Drop(tokens=64).left(576, 32)
    for tokens, ratio in ((192, 0.581), (128, 0.437), (64, 0.196)):
        assert PyramidDrop(tokens=tokens).budget_ratios(576, 32)[0] == pytest.approx(ratio, abs=5e-4)
        for pruner in (PyramidDrop(tokens=tokens), PyramidDrop(keep=tokens / 576)):
            assert abs(sum(lengths(pruner, 576, 32)) / 32 - tokens) < 1
    assert PyramidDrop(keep=1 / 3).layers(4) == V2Drop().layers(4) == (1, 2, 3)
    assert PyramidDrop().left(7, 4) == {1: 3, 2: 1, 3: 1}  # never none


@given(st.sampled_from([PyramidDrop, V2Drop]), st.integers(2, 40), st.integers(1, 700), st.floats(0.01, 1))
def test_budgets_are_means_over_the_layers(method: type[Staged], depth: int, n: int, keep: float) -> None:
    """To within a token; what the layers before the first stage exceed is refused as a share, and cut as a count."""
    info, pruner = ModelInfo(name="m", depth=depth, tower_depth=2), method(keep=keep)
    first = pruner.starts(depth)[0]
    if keep * depth <= first:
        with pytest.raises(PrunerError):
            pruner.check(info)
        count = method(tokens=max(1, int(keep * n)))
        assert set(count.left(n, depth).values()) == {1} or keep * n < 1
        return
    pruner.check(info)
    published = pruner.budget_ratios(n, depth) != Staged.budget_ratios(pruner, n, depth)
    assert abs(sum(lengths(pruner, n, depth)) / depth - keep * n) <= 1 or published


BAD: list[dict[str, Any]] = [
    {"keep": 0.0}, {"keep": 1.1}, {"tokens": 0}, {"keep": 0.5, "tokens": 3}, {"keep": 0.5, "ratios": (0.5,)},
    {"ratios": (0.5, 0.2)}, {"ratios": (0.5, 0.2, -0.1)}, {"drop_at": (2,)},
]  # fmt: skip


@pytest.mark.parametrize("wrong", BAD, ids=str)
@pytest.mark.parametrize("method", [PyramidDrop, V2Drop])
def test_bad_parameters(method: type[Staged], wrong: dict[str, Any]) -> None:
    with pytest.raises(PrunerError):
        method(**wrong)


def test_what_a_model_cannot_do() -> None:
    info = ModelInfo(name="m", depth=4, tower_depth=2)
    for pruner in (PyramidDrop(drop_at=(3, 2, 1)), PyramidDrop(drop_at=(1, 2, 4)), V2Drop(drop_at=(0, 1, 2))):
        with pytest.raises(PrunerError):
            pruner.check(info)
    with pytest.raises(PrunerError, match=r"alone are 0.25 on m"):
        PyramidDrop(keep=1 / 9).check(info)
    PyramidDrop(keep=1 / 9, drop_at=(0, 2)).check(info)
    with pytest.raises(PrunerError, match="from layer 1 on"):
        V2Drop().check(ModelInfo(name="m", depth=1, tower_depth=2))
    once = PyramidDrop(keep=1 / 3).resolved(info)
    assert once.resolved(info) == once and once.positions == "renumber" and once.drop_at == (1, 1, 2, 3)


def turned(x: list[list[float]], base: float) -> list[list[float]]:
    """RoPE of rows at positions 0, 1, 2, ...: pairs are (i, i + d / 2)."""
    half = len(x[0]) // 2
    out = []
    for place, row in enumerate(x):
        angle = [place * base ** (-i / half) for i in range(half)]
        a, b = row[:half], row[half:]
        out.append(
            [p * math.cos(t) - r * math.sin(t) for p, r, t in zip(a, b, angle, strict=True)]
            + [r * math.cos(t) + p * math.sin(t) for p, r, t in zip(a, b, angle, strict=True)]
        )
    return out


@pytest.mark.parametrize("kv_heads", [2, 4])
def test_golden_batch(kv_heads: int, tmp_path: Path) -> None:
    """Three samples of different length padded on the right, the last without a picture; then a planted difference."""
    rng = np.random.default_rng(kv_heads)
    heads, start, base, eps = 4, 3, 100.0, 1e-5
    wq, wk = rng.normal(size=(heads * WIDTH, 8)), rng.normal(size=(kv_heads * WIDTH, 8))
    norm, full, before, after = rng.normal(size=8), [20, 14, 0], 0.5, 0.25
    index, rows, inputs = [], [], []
    for n0, text in zip(full, (5, 9, 11), strict=True):
        n, count = int(n0 * before), int(n0 * after)
        x = rng.normal(size=(start + n + text, 8))
        inputs.append(x)
        normed = norm * x / np.sqrt((x**2).mean(1, keepdims=True) + eps)
        q, k = (
            [turned((normed @ w[h : h + WIDTH].T).tolist(), base) for h in range(0, len(w), WIDTH)] for w in (wq, wk)
        )
        row = attention(q, k)
        best = sorted(range(start, start + n), key=lambda i: -row[i])[:count]
        kept = [i for i in range(len(x)) if not start <= i < start + n or i in best]
        index.append(kept)
        rows.append(x[kept])

    def padded(parts: list[Any], value: float) -> Any:
        longest, width = max(map(len, parts)), np.asarray(parts[0]).shape[1:]
        return np.stack([np.concatenate([p, np.full((longest - len(p), *width), value)]) for p in parts])

    arrays: dict[str, Any] = {
        "in_hidden": padded(inputs, 0).astype(np.float32),
        "in_attention_mask": padded([np.ones(len(x)) for x in inputs], 0).astype(np.int32),
        "in_q_weight": wq, "in_k_weight": wk, "in_rmsnorm_weight": norm, "in_rmsnorm_eps": eps, "in_rope_base": base,
        "in_num_heads": heads, "in_image_start": start, "in_image_tokens_full": full, "in_ratio_before": before,
        "in_ratio_after": after, "in_text_tokens_after_image": [5, 9, 11],
        "out_keep_index": padded(index, -1).astype(np.int32),
        "out_position_ids": padded([np.arange(len(i)) for i in index], 0).astype(np.int32),
        "out_hidden": padded(rows, 0).astype(np.float32),
    }  # fmt: skip
    file = tmp_path / "PyramidDrop_seed7_budget3.npz"
    np.savez(file, **arrays)
    assert check_file(file)["ok"], check_file(file)
    arrays["out_keep_index"][1, 4] += 1
    np.savez(file, **arrays)
    assert str(check_file(file)["reason"]).startswith("out_keep_index: 1 of")
