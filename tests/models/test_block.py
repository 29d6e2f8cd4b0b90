"""Decoder layers written out as formulas compute what the stock modules do, and step aside for unknown ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.engine import Decoding, Engine
from harness.models.attention import sdpa
from harness.models.block import Block
from pruners import NoPruning, VisionPulse
from tests.conftest import Drawn, prompts
from tests.engine.test_spill import notices, untimed
from tests.tiny import CONFIGS, Prompted

__all__ = ["notices"]


class Causal:
    """Attention over everything so far, layer by layer."""

    def __init__(self) -> None:
        self.held: dict[int, tuple[Tensor, Tensor]] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if layer in self.held:
            key, value = (torch.cat([old, new], 2) for old, new in zip(self.held[layer], (key, value), strict=True))
        self.held[layer] = key, value
        t, n = query.shape[2], key.shape[2]
        mask = torch.ones(t, n, dtype=torch.bool).tril(n - t)
        return sdpa(query, key, value, mask[None, None])


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_equals_the_stock_layer(name: str) -> None:
    """A prompt of nine tokens and two more one by one, two samples, every layer on what the last one made."""
    model: Any = Prompted(CONFIGS[name], "cpu", [], noise=0.2)
    assert model.decoder is not None
    ours, theirs, start = Causal(), Causal(), 0
    for tokens in (9, 1, 1):
        torch.manual_seed(start)
        ours_x = theirs_x = torch.randn(2, tokens, model.dims.hidden)
        positions = torch.arange(start, start + tokens).expand(model.axes, 2, -1)
        rope, start = model.rope(positions), start + tokens
        for k in range(model.info.depth):
            ours_x = model.decoder[k](ours_x, rope, ours)
            theirs_x = model.text.layers[k](theirs_x, position_embeddings=rope, attention_mask=None, vtp=theirs)
            scale = max(1.0, float(theirs_x.abs().max()))
            torch.testing.assert_close(ours_x, theirs_x, atol=1e-6 * scale, rtol=1e-6)


class Widened(nn.Linear):
    """As adapters and quantisers put in the place of projections."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def unknown(layer: Any) -> str:
    layer.__class__ = type("OddDecoderLayer", (type(layer),), {})
    return "OddDecoderLayer is not one of"


def not_linear(layer: Any) -> str:
    layer.mlp.down_proj.__class__ = Widened
    return "mlp.down_proj is a Widened"


@pytest.mark.parametrize("change", [unknown, not_linear])
@pytest.mark.parametrize("name", ["untied", "internvl", "llava"])
def test_other_layers_run_as_stock_modules(name: str, change: Any, notices: Any) -> None:
    """Said once, whatever else runs; tokens are equal."""
    model: Any = Drawn(CONFIGS[name], "cpu", [], noise=0.15)
    other: Any = Drawn(CONFIGS[name], "cpu", [], noise=0.15)
    requests, new = [r for r in prompts(12) if len(r.content) == 1], Decoding(max_new_tokens=12)
    told = change(other.layers[1])
    assert Block.why_not(other.layers[0]) is None
    for pruner in (NoPruning(), VisionPulse(low=0.1, high=0.4)):
        want = {i: t["token_ids"] for i, t in untimed([*Engine(model).run(requests, pruner, new)]).items()}
        assert {i: t["token_ids"] for i, t in untimed([*Engine(other).run(requests, pruner, new)]).items()} == want
    assert other.decoder is None and model.decoder is not None
    (said,) = notices.records
    assert said.getMessage().startswith(f"layers run as stock modules, which is slower: {told}")
