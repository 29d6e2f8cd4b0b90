"""FasterVLM against sorting, and what all methods share that rank tokens by tower attention."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harness.engine import Decoding, Engine, Request
from harness.golden.scene import prune
from pruners import FasterVLM, HiPrune, HoloV, ModelInfo, PrunerError, VisPruner
from pruners.signals import Signal, TowerAttention
from tests.tiny import CONFIGS, Prompted

CLIP = ModelInfo(name="clip", depth=2, tower_depth=24, has_cls=True, feature_layer=-2)
QWEN = ModelInfo(name="qwen", depth=2, tower_depth=32, unit=4, axes=3)
INTERN = replace(QWEN, name="intern", has_cls=True, axes=1)
SIGNAL = {
    "clip": TowerAttention(-2, "cls"), "qwen": TowerAttention(-1, "received"), "intern": TowerAttention(-1, "cls")
}  # fmt: skip


@given(st.lists(st.integers(0, 5), min_size=2, max_size=30), st.sampled_from([CLIP, QWEN, INTERN]), st.data())
def test_equals_sorting(scores: list[int], info: ModelInfo, data: st.DataObject) -> None:
    """The k highest, ties to the lower index, in raster order; ids as `BeforeLLM` has them."""
    n, k = len(scores), data.draw(st.integers(1, len(scores)))
    hidden = torch.randn(n + 3, 4)
    signals: dict[Signal, Tensor] = {SIGNAL[info.name]: torch.tensor(scores) / 7}
    selection, after = prune(FasterVLM(keep=None, tokens=k), hidden, 2, n, info, signals)
    best = sorted(sorted(range(n), key=lambda i: (-scores[i], i))[:k])
    index = [0, 1, *(2 + i for i in best), n + 2]
    assert (selection is None) == (k == n) and (selection is None or selection.source.tolist() == best)
    assert torch.equal(after.hidden, hidden[index])
    assert after.positions.tolist() == [index if info.axes == 3 else list(range(k + 3))] * info.axes


@pytest.mark.parametrize(("keep", "k"), [(0.1, 58), (0.05, 29), (0.25, 144)])
def test_counts_of_the_paper(keep: float, k: int) -> None:
    assert FasterVLM(keep=keep).count(576) == k


@pytest.mark.parametrize("method", [FasterVLM, VisPruner, HoloV])
def test_what_the_model_has_decides(method: type[FasterVLM]) -> None:
    """Everything explicit after `resolved`; twice is once."""
    for info in (CLIP, QWEN, INTERN):
        method().check(info)
        explicit = method().resolved(info)
        assert explicit.resolved(info) == explicit and explicit.signals(info) == method().signals(info)
        assert explicit.attention == method().signals(info)[0] == SIGNAL[info.name]
        assert explicit.positions == ("keep" if info.axes == 3 else "renumber")
    assert method(scores="received", layer=3).resolved(CLIP).attention == TowerAttention(3, "received")
    with pytest.raises(PrunerError, match="only after resolved"):
        _ = method().attention


BAD: list[tuple[dict[str, Any], ModelInfo, str]] = [
    ({"scores": "cls"}, QWEN, "no class token"), ({"layer": 24}, CLIP, "24 layers has no layer 24"),
    ({"layer": -33}, QWEN, "no layer -33"),
]  # fmt: skip


@pytest.mark.parametrize("method", [FasterVLM, VisPruner, HoloV, HiPrune])
@pytest.mark.parametrize(("options", "info", "reason"), BAD, ids=[reason for _, _, reason in BAD])
def test_what_a_tower_cannot_do(method: type[FasterVLM], options: dict[str, Any], info: ModelInfo, reason: str) -> None:
    with pytest.raises(PrunerError, match=reason):
        method(**options).check(info)


@pytest.mark.parametrize(("method", "left"), [(FasterVLM, 18), (VisPruner, 18), (HiPrune, 18), (HoloV, 19)])
def test_budgets_of_crops(method: type[FasterVLM], left: int) -> None:
    """Two tiles and a thumbnail of 16 tokens: 3 times round(6.4), but HoloV cuts the picture as a whole."""
    model = Prompted(CONFIGS["internvl"], "cpu", [(2, 1)])
    (trace,) = Engine(model).run([Request("s", ())], method(keep=0.4), Decoding(max_new_tokens=1))
    assert trace.error is None and trace.visual_tokens == 48 and trace.visual_per_layer == [left] * 5
