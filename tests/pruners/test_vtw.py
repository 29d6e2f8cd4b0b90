"""VTW: what leaves, where, and how the layer is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.engine import Decoding, Engine, Request
from harness.golden.scene import prune
from pruners import VTW, Blind, ModelInfo, NoPruning, PrunerError
from tests.tiny import CONFIGS, Prompted

INFO = ModelInfo(name="m", depth=32, tower_depth=2)


@pytest.mark.parametrize("family", ["untied", "qwen2_5", "internvl", "llava", "llava_next"])
def test_all_visual_tokens_leave_at_one_layer(family: str) -> None:
    """Of both pictures, in prefill and in the cache; at layer 0 nothing else happens than without a picture."""
    model = Prompted(CONFIGS[family], "cpu", [(2, 2), (2, 4)], noise=0.15)
    depth, replies = model.info.depth, {}
    for pruner in (Blind(), NoPruning(), *(VTW(layer=layer) for layer in range(depth)), VTW(keep=1.0)):
        (trace,) = Engine(model).run([Request("s", ())], pruner, Decoding(max_new_tokens=8, ignore_eos=True))
        n, layer = trace.visual_tokens, pruner.withdrawal(depth) if isinstance(pruner, VTW) else None
        replies[layer if isinstance(pruner, VTW) else pruner] = trace.token_ids
        if layer is not None:
            assert trace.error is None and n > 0
            assert trace.visual_per_layer == [n] * layer + [0] * (depth - layer)
            assert [trace.kv, trace.ret_prefill, trace.ret_decode] == pytest.approx([layer / depth] * 3)
    assert replies[0] == replies[Blind()] != replies[NoPruning()] == replies[depth]


def test_ids_stay() -> None:
    _, after = prune(VTW(layer=2), torch.ones(9, 3), 2, 4, INFO)
    assert after.index.tolist() == after.positions[0].tolist() == [0, 1, 6, 7, 8] and after.next_position == 9


def test_the_layer() -> None:
    """The paper's share of the depth, a share of the tokens, or a number."""
    layers = {VTW(): 15, VTW(layer=20): 20, VTW(layer=0): 0, VTW(layer="1/2"): 16, VTW(layer="0/32"): 1,
              VTW(keep=0.5): 16, VTW(keep=1 / 9): 4, VTW(keep=0.001): 1}  # fmt: skip
    assert {pruner: pruner.layers(32)[0] for pruner in layers} == layers
    assert VTW(keep=1.0).layers(32) == ()
    assert VTW().resolved(INFO) == VTW(layer="15/32").resolved(INFO) == VTW(layer=15)
    assert VTW(keep=0.5, eta=0.1).resolved(INFO) == VTW(keep=0.5)


def test_a_fit_names_the_layer(tmp_path: Path) -> None:
    """The first layer, from 1 on, with at most eta; a run is identified by the layer alone."""
    path, info = tmp_path / "fit.json", ModelInfo(name="m", depth=5, tower_depth=2)
    path.write_text(json.dumps({"method": "VTW", "depth": 5, "divergence": [[0.0, 2.0, 0.003, 0.5, 0.0]]}))
    fit = str(path)
    assert VTW(fit=fit).resolved(info) == VTW(fit=fit, eta=1.0).resolved(info) == VTW(layer=2)
    assert VTW(fit=fit, eta=0.002).layers(5) == (4,) and VTW(fit=fit, eta=3.0).layers(5) == (1,)
    path.write_text(json.dumps({"method": "VTW", "depth": 5, "divergence": [[0.0, 2.0, 1.0, 0.5, 0.1]]}))
    for pruner, model, reason in (
        (VTW(fit=fit), info, "no layer of .* has a divergence of at most eta=0.003"),
        (VTW(fit=fit), INFO, "fitted on a model of 5 layers, this one has 32"),
        (VTW(layer=5), info, "layer 5 does not fit"),
        (VTW(layer="x"), info, "depth fraction"),
    ):
        with pytest.raises(PrunerError, match=reason):
            pruner.check(model)


@pytest.mark.parametrize("options", [{"keep": 0.5, "layer": 3}, {"layer": 3, "fit": "x"}, {"keep": 0}, {"eta": 0}])
def test_contradictions(options: dict[str, Any]) -> None:
    with pytest.raises(PrunerError):
        VTW(**options)
