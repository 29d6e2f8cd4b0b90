"""Peak memory, counted from the tensors that are alive, on models of full size without values."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.engine import Decoding, Engine, Request
from harness.engine.bench.prompt import make_prompt
from harness.engine.features import FeatureCache
from harness.engine.parts import ignore
from harness.engine.prefill import Prefill
from harness.engine.vision import Vision
from harness.models.base import Model, Prompt
from harness.models.random import random_model
from pruners import FastV, NoPruning
from pruners.base import Pruner


class Alive(TorchDispatchMode):
    """Bytes of all storages that operations have made and nobody has let go of, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.known: set[int] = set()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: Any) -> None:
        key = storage._cdata
        if key in self.known:
            return
        size = storage.nbytes()
        self.known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)

        def gone() -> None:
            self.known.discard(key)
            self.now -= size

        weakref.finalize(storage, gone)


def test_the_count_is_of_what_is_alive() -> None:
    with Alive() as alive:
        first = torch.empty(1000, device="meta")
        view = first[:10]
        del first
        second = view + 1
        assert (alive.now, alive.peak) == (4040, 4040)
        del view
        assert alive.now == 40
        del second
        assert (alive.now, alive.peak) == (0, 4040)


def peaks(model: Model, pruner: Pruner, prompt: Prompt, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Of prefill alone, and of eight samples with their replies."""
    resolved = pruner.resolved(model.info)
    features = Vision(model, resolved, FeatureCache(0), ignore).features([(Request("s", ()), prompt)])[0]
    with Alive() as prefill:
        Prefill(model, resolved, ignore).run([(Request("s", ()), prompt, features)])
    monkeypatch.setattr(model, "prepare", lambda _: prompt)
    with Alive() as whole:
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
