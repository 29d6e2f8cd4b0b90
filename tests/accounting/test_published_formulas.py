"""Published formulas against printed values, sizes against configs, schedules against the official code's counts."""

from __future__ import annotations

import pytest
from transformers import LlavaConfig, Qwen3VLConfig

from harness.accounting.flops import head_flops, prefill_flops
from harness.accounting.published import FORMULAS, executed, per_layer
from harness.accounting.sizes import DIMS
from harness.models import llava, qwen3_vl
from tests.tiny import LLAVA_1_5_7B, QWEN3_VL_4B, text_sizes, tower_sizes
from tests.tiny import llava as llava_config

LLAVA, QWEN = DIMS["llava_1_5_7b"], DIMS["qwen3_vl_4b"]


def value(name: str, method: str, tokens: int, **options: float) -> float:
    dims = QWEN if name.startswith("dstp") else LLAVA
    return FORMULAS[name].value(dims, per_layer(method, tokens, dims.depth), **options)


def test_sizes_are_those_of_the_configs() -> None:
    assert isinstance(LLAVA_1_5_7B, LlavaConfig) and isinstance(QWEN3_VL_4B, Qwen3VLConfig)
    assert llava.dims(LLAVA_1_5_7B, 2) == LLAVA
    assert qwen3_vl.dims(QWEN3_VL_4B, 2) == QWEN
    bigger = llava_config(text_sizes(5120, 40, 40, 40, 128, 13824, 32064), tower_sizes(24, 1024, 16, 4096, 14, 336))
    assert llava.dims(bigger, 2) == DIMS["llava_1_5_13b"]


@pytest.mark.parametrize(
    ("method", "tokens", "mean", "percent"),
    [  # with 60 text tokens; first three lines: every method before the language model
        ("visionzip", 192, "192.0", "39.0"),
        ("desap", 128, "128.0", "29.0"),
        ("divprune", 64, "64.0", "19.1"),
        ("fastv", 192, "216.0", "42.8"),
        ("fastv", 128, "156.0", "33.5"),
        ("fastv", 64, "96.0", "24.2"),
        ("sparsevlm_reported", 192, "192.0", "39.1"),
        ("sparsevlm_reported", 128, "128.6", "29.3"),
        ("sparsevlm_reported", 64, "64.8", "19.3"),
        ("sparsevlm", 192, "206.5", "41.4"),
        ("sparsevlm", 128, "145.4", "31.9"),
        ("sparsevlm", 64, "82.2", "22.1"),
        ("sparsevlm_plus", 192, "206.8", "41.4"),
        ("sparsevlm_plus", 128, "144.1", "31.7"),
        ("sparsevlm_plus", 96, "113.9", "27.0"),
        ("sparsevlm_plus", 64, "81.8", "22.0"),
        ("pyramiddrop", 270, "270.0", "51.5"),
        ("dart", 128, "159.8", "34.1"),
        ("v2drop", 192, "202.8", "40.9"),
        ("vscan", 64, "64.0", "19.1"),
    ],
)
def test_schedules_as_executed(method: str, tokens: int, mean: str, percent: str) -> None:
    share = value("sparsevlm", method, tokens, text=60) / value("sparsevlm", "full", 576, text=60)
    assert (f"{sum(per_layer(method, tokens)) / 32:.1f}", f"{share:.1%}") == (mean, f"{percent}%")


@pytest.mark.parametrize(
    ("name", "method", "tokens", "printed"),
    [
        ("desap", "full", 576, "3.82"),
        ("desap", "desap", 192, "1.25"),
        ("desap", "desap", 128, "0.83"),
        ("desap", "desap", 64, "0.42"),
        ("btp", "fastv", 192, "1.41"),
        ("btp", "fastv", 128, "1.02"),
        ("btp", "fastv", 64, "0.63"),
        ("sparsevlm", "full", 576, "4.62"),
        ("dstp.decode", "full", 576, "2.94"),
        ("dstp.prefill", "fastv", 192, "0.59"),
        ("dstp.prefill", "fastv", 128, "0.42"),
    ],
)
def test_values_of_the_papers(name: str, method: str, tokens: int, printed: str) -> None:
    assert f"{value(name, method, tokens) / 1e12:.2f}" == printed


def test_only_118_text_tokens_give_sparsevlms_full_cost() -> None:
    fit = [n for n in range(400) if f"{value('sparsevlm', 'full', 576, text=n) / 1e12:.2f}" == "4.62"]
    assert fit == [118]


def test_dstp_step_by_step() -> None:
    d, m = 2560, 9728
    steps = sum(36 * (4 * d * d + 2 * (576 + i) * d + 2 * d * m) for i in range(1000))
    assert value("dstp.decode", "full", 576) == steps
    assert f"{steps / 1e12:.3f}" == "2.935"
    prefill = 36 * (4 * 576 * d * d + 2 * 576**2 * d + 2 * 576 * d * m)
    assert value("dstp.prefill", "full", 576) == prefill
    assert value("dstp.total", "full", 576) == prefill + steps
    assert value("dstp.prefill_share", "fastv", 192, share=1 / 3) == pytest.approx(prefill / 3)


def test_visionpulse_step_by_step() -> None:
    d, m, p, v = 4096, 11008, 60, 576
    expected = 32 * ((p + v) * (8 * d * d + 4 * m * d) + 4 * d * (p + v) ** 2)
    expected += 32 * sum(8 * d * d + 4 * m * d + 4 * d * (p + v + t) for t in range(1, 8))
    assert value("visionpulse", "full", 576, steps=7) == expected


def test_reductions() -> None:
    cost = [4 * n * 4096**2 + 2 * n**2 * 4096 + 2 * n * 4096 * 11008 for n in (576, 64)]
    assert value("fastv.reduction", "fastv", 64) == pytest.approx(1 - (2 * cost[0] + 30 * cost[1]) / (32 * cost[0]))
    assert value("holov", "holov", 64) == pytest.approx(1 - (64 / 576) ** 2)


def test_kv_of_sparsevlm() -> None:
    """0.525 MB per token are printed (302.4 and 100.8); 2 x 32 x 4096 x 2 bytes are 0.524."""
    assert value("sparsevlm.kv", "full", 576) == 576 * 524288
    assert executed(LLAVA, per_layer("sparsevlm", 192), "kv") == 6608 * 16384
    assert executed(QWEN, [576] * 36, "kv") == 36 * 576 * 2 * 1024 * 2


def test_executed_is_twice_the_formula_where_both_count_the_same() -> None:
    """Without text, tower and logits, on a model whose keys are as many as its queries and whose MLP is gated."""
    lengths = per_layer("sparsevlm", 64)
    assert prefill_flops(LLAVA, lengths) - head_flops(LLAVA) == 2 * FORMULAS["desap"].value(LLAVA, lengths)


def test_executed_counts_tower_text_and_logits() -> None:
    """LLaVA-1.5-7B unpruned by hand: 23 tower layers of 577 tokens, two projector matrices, 636 tokens, one row."""
    w, d = 1024, 4096
    tower = 2 * 576 * 588 * w + 23 * (2 * 577 * (4 * w * w + 2 * w * 4096) + 4 * 577**2 * w)
    projector = 2 * 576 * (w * d + d * d)
    model = 32 * (2 * 636 * (4 * d * d + 3 * d * 11008) + 4 * 636**2 * d) + 2 * d * 32064
    assert executed(LLAVA, [576] * 32) == tower + projector + model
    steps = sum(32 * (2 * (4 * d * d + 3 * d * 11008) + 4 * (636 + t) * d) + 2 * d * 32064 for t in range(1, 4))
    assert executed(LLAVA, [576] * 32, "decode", steps=3) == steps
    assert executed(LLAVA, [576] * 32, "total", steps=3) == tower + projector + model + steps


@pytest.mark.parametrize(
    ("method", "tokens", "depth"), [("sparsevlm", 100, 32), ("pyramiddrop", 270, 36), ("x", 1, 32)]
)
def test_unknown_schedules_are_refused(method: str, tokens: int, depth: int) -> None:
    with pytest.raises(ValueError, match=f"no schedule of {method} for {tokens} of 576 tokens in {depth} layers"):
        per_layer(method, tokens, depth)
