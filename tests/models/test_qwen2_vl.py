"""Qwen2-VL: tower and replies equal to the stock model, costs to torch's counter, and methods of every moment."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.accounting.flops import vision_flops
from harness.engine import Decoding, Engine, Request
from pruners import NoPruning
from tests.models.adapters import MOMENTS, every_method_runs
from tests.tiny import CONFIGS, Grid, Prompted, stock, stock_inputs


@cache
def prompted(*grids: Grid) -> Any:
    return Prompted(CONFIGS["qwen2"], "cpu", grids, noise=0.15)


@pytest.mark.parametrize("grids", [[], [(2, 2)], [(10, 6)], [(6, 14), (2, 4)]], ids=str)
def test_equals_generate(grids: list[Grid]) -> None:
    """Greedy, 16 tokens; the features of each picture on the way."""
    model = prompted(*grids)
    prompt, reference = model.prepare(None), stock(model)
    inputs = stock_inputs(model, prompt)
    want = reference.generate(**inputs, do_sample=False, max_new_tokens=16, pad_token_id=0)
    (trace,) = Engine(model).run([Request("r", ())], NoPruning(), Decoding(max_new_tokens=16))
    assert trace.error is None and trace.visual_tokens == len(prompt.visual)
    assert trace.token_ids == want[0, len(prompt.ids) :].tolist() and len(set(trace.token_ids)) > 3
    if grids:
        with torch.inference_mode():
            theirs = reference.model.visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]).pooler_output
            ours = torch.cat([model.encode(picture).tokens for picture in prompt.pictures])
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=2e-5)


def test_costs_equal_torchs_counter() -> None:
    model: Any = Prompted(CONFIGS["qwen2"], "meta", [(10, 6)])
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        out = model.encode(model.pictures[0])
    assert counter.get_total_flops() == sum(vision_flops(model.dims, crop) for crop in out.tower_tokens)


@pytest.mark.parametrize("check", MOMENTS)
def test_moments(check: Any) -> None:
    check(prompted((10, 6)))


def test_every_method_runs() -> None:
    every_method_runs(prompted((10, 6), (4, 8)))
