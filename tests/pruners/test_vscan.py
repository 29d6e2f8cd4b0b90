"""VScan's two stages against plain Python loops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from harness.engine import Decoding, Engine
from harness.engine.segment import Segment
from harness.golden.scene import prefill, prune
from harness.models import Model
from pruners import ModelInfo, Pruner, PrunerError, Selection, View, VisualLayout, VScan
from pruners.signals import Signal, TowerAttention
from tests.conftest import prompts
from tests.pruners.test_pyramiddrop import Attending, attention

CLIP = ModelInfo(name="clip", depth=4, tower_depth=24, has_cls=True, feature_layer=-2)
QWEN = ModelInfo(name="qwen", depth=4, tower_depth=4, unit=4, axes=3)
INTERN = replace(QWEN, name="intern", has_cls=True, axes=1)


@dataclass(frozen=True, kw_only=True)
class OnGrid(Pruner):
    """The method on a grid of tokens, stage 1 alone."""

    base: VScan
    grid: tuple[int, int]

    def resolved(self, model: ModelInfo) -> Pruner:
        return replace(self, base=self.base.resolved(model))

    def signals(self, model: ModelInfo) -> Sequence[Signal]:
        return self.base.signals(model)

    def at_embed(self, view: View) -> Selection | None:
        layout = VisualLayout.of_grids([self.grid])
        return self.base.at_embed(replace(view, sample=replace(view.sample, layout=layout)))


def loops(
    grid: tuple[int, int], side: int, shallow: list[float], deep: list[float], t: int, repaired: bool
) -> list[int]:
    """Kept tokens in raster order."""
    rows, columns = grid
    windows: dict[tuple[int, int], list[int]] = {}
    for i in range(rows * columns):
        windows.setdefault((i // columns // side, i % columns // side), []).append(i)
    k = t // 2 // len(windows)
    local = [i for window in windows.values() for i in sorted(window, key=lambda i: (-shallow[i], i))[:k]]
    rest = sorted((i for i in range(rows * columns) if i not in local), key=lambda i: (-deep[i], i))
    return sorted(local + rest[: t - len(local) if repaired else t - t // 2])


def merged(x: list[list[float]], kept: list[int]) -> dict[int, list[int]]:
    """The old tokens in each kept one."""

    def cosine(a: list[float], b: list[float]) -> float:
        return math.fsum(p * q for p, q in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))

    members = {i: [i] for i in kept}
    for i in range(len(x)):
        if i not in members:
            members[max(kept, key=lambda j: cosine(x[i], x[j]))].append(i)
    return members


def scene(n: int, seed: int, model: ModelInfo) -> tuple[Tensor, Tensor, Tensor, dict[Signal, Tensor]]:
    """Features [n, 5], scores of both layers, and these as signals."""
    g = Generator().manual_seed(seed)
    features, (shallow, deep) = torch.randn(n, 5, generator=g), torch.rand(2, n, generator=g)
    wanted = VScan().resolved(model)
    return features, shallow, deep, {wanted.shallow_attention: shallow, wanted.attention: deep}


@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(0, 9999), st.booleans(),
    st.sampled_from([CLIP, QWEN, INTERN]), st.data(),
)  # fmt: skip
def test_stage_1_equals_loops(
    rows: int, columns: int, side: int, seed: int, repaired: bool, model: ModelInfo, data: st.DataObject
) -> None:
    """Grids that windows do not divide too."""
    n = rows * columns
    t = data.draw(st.integers(1, n))
    features, shallow, deep, signals = scene(n, seed, model)
    vscan = VScan(keep=None, tokens=t, share=1.0, window=side, repaired=repaired)
    selection, after = prune(OnGrid(base=vscan, grid=(rows, columns)), features, 0, n, model, signals)
    if t == n:
        assert selection is None
        return
    kept = loops((rows, columns), side, shallow.tolist(), deep.tolist(), t, repaired)
    assert selection is not None and selection.source.tolist() == kept
    assert len(kept) <= vscan.count(n) == t and (len(kept) == t or not repaired)
    members = merged(features.double().tolist(), kept)
    want = torch.stack([features[members[i]].mean(0) for i in kept])
    torch.testing.assert_close(after.hidden, want)
    assert after.size.tolist() == [len(members[i]) for i in kept]
    assert after.positions[0].tolist() == (kept if model.axes == 3 else list(range(len(kept))))


@given(st.integers(2, 40), st.integers(0, 9999), st.sampled_from([CLIP, QWEN]), st.sampled_from([0.2, 0.4, 0.6, 0.9]))
def test_both_stages(n: int, seed: int, model: ModelInfo, keep: float) -> None:
    """A strip of n tokens between text: merged before layer 0, ranked by layer 2's attention, as in PyramidDrop."""
    _, shallow, deep, signals = scene(n, seed, model)
    hidden = torch.randn(n + 5, 6, generator=Generator().manual_seed(seed))
    attending = Attending(model, hidden, 2, 1, seed)
    known: dict[str, Any] = {"signals": {signal: (value, torch.arange(n)) for signal, value in signals.items()}}
    vscan = VScan(keep=keep)
    after: Segment = prefill(attending, vscan, torch.arange(n + 5), 3, n, **known).segment

    t = max(1, round(keep * n * 1.5)) if keep <= 2 / 3 else n
    side = 6 if model is CLIP else 4
    kept = loops((1, n), side, shallow.tolist(), deep.tolist(), t, False) if t < n else list(range(n))
    members = merged(hidden[3 : 3 + n].double().tolist(), kept)
    visual = torch.stack([hidden[3 + torch.tensor(members[i])].mean(0) for i in kept])
    rows = torch.cat([hidden[:3], visual, hidden[-2:]]).double()
    places = [0, 1, 2, *(3 + i for i in kept), n + 3, n + 4]
    ids = places if model.axes == 3 else list(range(len(places)))
    q, k = attending.qk(2, rows, torch.tensor([ids]))
    row = attention(q.tolist(), k.tolist())[3:-2]
    second = max(1, round(len(kept) * (1 / 3 if keep <= 2 / 3 else 2 * keep - 1)))
    best = sorted(sorted(range(len(kept)), key=lambda i: (-row[i], i))[:second])
    assert after.index.tolist() == [0, 1, 2, *(3 + kept[i] for i in best), n + 3, n + 4]
    assert after.positions[0].tolist() == (after.index.tolist() if model.axes == 3 else list(range(len(after))))
    torch.testing.assert_close(after.hidden[3:-2], visual[best])


def test_published_budgets() -> None:
    """LLaVA-1.5-7B: 96 then 32 tokens for a mean of 64; of 100, 98 are kept unless repaired."""
    model = ModelInfo(name="llava", depth=32, tower_depth=24, has_cls=True, feature_layer=-2)
    for budget in (VScan(keep=None, tokens=64), VScan(keep=1 / 9)):
        vscan = budget.resolved(model)
        assert vscan.count(576) == 96 and vscan.layers(32) == (16,) and round(96 * vscan.share) == 32
        assert vscan.resolved(model) == vscan
    assert VScan().signals(model) == (TowerAttention(5, "cls", "mean"), TowerAttention(-2, "cls", "mean"))
    assert VScan().resolved(QWEN).signals(QWEN)[0] == TowerAttention(1, "received", "mean")
    _, shallow, deep, signals = scene(576, 0, model)
    for repaired, count in ((False, 98), (True, 100)):
        vscan = VScan(keep=None, tokens=100, share=1.0, repaired=repaired)
        _, after = prune(OnGrid(base=vscan, grid=(24, 24)), torch.ones(576, 2), 0, 576, model, signals)
        assert len(after) == count == len(loops((24, 24), 6, shallow.tolist(), deep.tolist(), 100, repaired))


def test_ties_and_precision() -> None:
    """Equal scores and features keep and join the first; bfloat16 values select the same in any precision."""
    even: dict[Signal, Tensor] = {signal: torch.ones(12) for signal in VScan().signals(CLIP)}
    vscan = OnGrid(base=VScan(keep=None, tokens=4, share=1.0, window=2), grid=(2, 6))
    selection, _ = prune(vscan, torch.ones(12, 3), 0, 12, CLIP, even)
    assert selection is not None and selection.source.tolist() == [0, 1]  # 2 // 3 windows: none of them local
    assert selection.weights is not None and selection.weights.rows.tolist() == [0, 1] + [0] * 10
    features, _, _, signals = scene(36, 3, CLIP)
    kept = [
        prune(vscan.__class__(base=VScan(keep=0.4), grid=(6, 6)), features.bfloat16().to(dtype), 0, 36, CLIP, signals)
        for dtype in (torch.bfloat16, torch.float64)
    ]
    first, second = (selection for selection, _ in kept)
    assert first is not None and second is not None and first.weights is not None and second.weights is not None
    assert first.source.tolist() == second.source.tolist()
    assert first.weights.rows.tolist() == second.weights.rows.tolist()


@pytest.mark.parametrize("wrong", [{"share": 0.0}, {"share": 1.5}, {"window": 0}, {"keep": 0}], ids=str)
def test_bad_parameters(wrong: dict[str, Any]) -> None:
    with pytest.raises(PrunerError):
        VScan(**wrong)


def test_what_a_tower_cannot_do() -> None:
    with pytest.raises(PrunerError, match="class token"):
        VScan(scores="cls").check(QWEN)
    for late in (VScan(drop_at=9), VScan(shallow=23), VScan(layer=30)):
        with pytest.raises(PrunerError):
            late.check(CLIP)


@pytest.mark.parametrize("tokens", [48, 56, 10_000])
def test_many_tokens_are_met_by_stage_2(trained: Model, tokens: int) -> None:
    """Where stage 1 has to keep everything, stage 2 drops less: the mean over the layers is the budget."""
    request = next(r for r in prompts(8) if len(r.content) == 2)
    (trace,) = Engine(trained).run([request], VScan(keep=None, tokens=tokens), Decoding(max_new_tokens=1))
    n, left = trace.visual_tokens, trace.visual_per_layer
    assert left[0] == n < 64 and sum(left) / len(left) == min(tokens, n)
