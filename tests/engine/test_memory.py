"""Peak memory, counted from the tensors that are alive, on models of full size without values."""

from __future__ import annotations

import pytest
import torch

from harness.engine import Decoding, Engine, Request
from harness.engine.bench.clock import Held
from harness.engine.bench.prompt import make_prompt
from harness.engine.features import FeatureCache
from harness.engine.parts import ignore
from harness.engine.prefill import Prefill
from harness.engine.vision import Vision
from harness.models.base import Model, Prompt
from harness.models.random import random_model
from pruners import FastV, NoPruning
from pruners.base import Pruner


def test_the_count_is_of_what_is_alive() -> None:
    with Held() as held:
        first = torch.empty(1000, device="meta")
        view = first[:10]
        del first
        second = view + 1
        assert (held.now, held.peak) == (4040, 4040)
        del view
        assert held.now == 40
        del second
        assert (held.now, held.peak) == (0, 4040)


def peaks(model: Model, pruner: Pruner, prompt: Prompt, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Of prefill alone, and of eight samples with their replies."""
    resolved = pruner.resolved(model.info)
    features = Vision(model, resolved, FeatureCache(0), ignore).features([(Request("s", ()), prompt)])[0]
    with Held() as prefill:
        Prefill(model, resolved, ignore).run([(Request("s", ()), prompt, features)])
    monkeypatch.setattr(model, "prepare", lambda _: prompt)
    with Held() as whole:
        requests = [Request(f"s{i}", ()) for i in range(8)]
        traces = list(Engine(model, slots=8).run(requests, pruner, Decoding(max_new_tokens=3, ignore_eos=True)))
    assert [trace.error for trace in traces] == [None] * 8
    return prefill.peak, whole.peak


@pytest.mark.parametrize(
    ("path", "family"), [("Qwen/Qwen3-VL-4B-Instruct", "qwen3_vl"), ("OpenGVLab/InternVL3_5-8B-HF", "internvl")]
)
def test_fastv_needs_no_more_than_the_unpruned_model(
    path: str, family: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At 4,096 visual tokens: weights apart, so that they hide nothing."""
    model = random_model(path, family=family, dtype="bfloat16", device="meta")
    prompt = make_prompt(model, 4096, 256)
    full, fastv = (peaks(model, pruner, prompt, monkeypatch) for pruner in (NoPruning(), FastV(keep=1 / 3)))
    with capsys.disabled():
        told = [" and ".join(f"{x / 2**20:.0f}" for x in both) for both in (full, fastv)]
        print(f"\n{family}: peak MiB of prefill and of 8 slots {told[0]}, FastV {told[1]}")
    assert all(0 < pruned <= 1.02 * whole for pruned, whole in zip(fastv, full, strict=True))
