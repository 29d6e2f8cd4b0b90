"""Bytes of the key-value cache and retention, against a count by hand."""

from __future__ import annotations

import pytest

from harness.engine import Decoding, Engine, Request
from pruners import Blind, FastV, NoPruning
from tests.tiny import CONFIGS, Prompted

ENTRY = 2 * 2 * 32 * 4  # key and value, 2 heads of 32 channels, float32
TEXT, VISUAL, NEW = 9, 24, 6  # 8 x 12 patches; 6 new tokens are 5 steps: the last one is never fed back
ONE_AND_ONLY = Request("s", ())


@pytest.fixture(scope="module")
def model() -> Prompted:
    return Prompted(CONFIGS["shipped"], "cpu", [(8, 12)], text=TEXT)


def test_fastv_counts_by_hand(model: Prompted) -> None:
    """Four layers, cut at layer 2 to a third: 24, 24, 8, 8 visual tokens."""
    decoding = Decoding(max_new_tokens=NEW, ignore_eos=True)
    (trace,) = Engine(model, slots=1).run([ONE_AND_ONLY], FastV(layer=2, keep=1 / 3), decoding)
    assert trace.error is None
    assert (trace.text_tokens, trace.visual_tokens, trace.new_tokens) == (TEXT, VISUAL, NEW)
    assert trace.visual_per_layer == [24, 24, 8, 8]
    assert trace.ret_prefill == trace.ret_decode == trace.kv == 64 / 96
    assert trace.visible_per_step == [(16.0, 5)]
    after_prefill = (9 + 24) + (9 + 24) + (9 + 8) + (9 + 8)
    assert trace.kv_bytes == {
        "visible": (after_prefill + 4 * 3) * ENTRY,  # steps see 1..5 tokens of the reply: 3 on average
        "resident": (after_prefill + 4 * 5) * ENTRY,
        "allocated": (after_prefill + 4 * 6) * ENTRY,
    }


def test_the_ends_of_the_scale(model: Prompted) -> None:
    for pruner, share in ((NoPruning(), 1.0), (Blind(), 0.0)):
        (trace,) = Engine(model).run([ONE_AND_ONLY], pruner, Decoding(max_new_tokens=2, ignore_eos=True))
        assert (trace.ret_prefill, trace.ret_decode, trace.kv) == (share, share, share)
        assert trace.kv_bytes["resident"] == 4 * (TEXT + share * VISUAL + 1) * ENTRY


def test_without_pictures_there_is_nothing_to_retain() -> None:
    model = Prompted(CONFIGS["untied"], "cpu", [])
    (trace,) = Engine(model).run([ONE_AND_ONLY], FastV(), Decoding(max_new_tokens=2, ignore_eos=True))
    assert (trace.ret_prefill, trace.ret_decode, trace.kv) == (None, None, None)
    assert trace.visual_tokens == 0 and trace.kv_bytes["resident"] == 5 * (9 + 1) * 2 * 2 * 16 * 4
