"""The kernel for sequences of own lengths, replaced by its documented meaning, in the places where a GPU has it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.engine import Decoding, Engine
from harness.models import varlen
from harness.models.base import Model
from pruners import FastV, NoPruning, PyramidDrop, VisionPulse
from pruners.base import Pruner
from tests.conftest import prompts


def kernel(
    query: Tensor, key: Tensor, value: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, *,
    window_size: tuple[int, int] = (-1, -1), enable_gqa: bool = False, seqused_k: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Query by query and head by head, in float64."""
    assert cu_q.dtype == cu_k.dtype == torch.int32 and enable_gqa and window_size in ((-1, -1), (-1, 0))
    out = torch.zeros_like(query)
    for i in range(len(cu_q) - 1):
        first, end = int(cu_q[i]), int(cu_q[i + 1])
        start, length = int(cu_k[i]), int(cu_k[i + 1] - cu_k[i]) if seqused_k is None else int(seqused_k[i])
        assert end - first <= max_q and length <= max_k
        for t in range(first, end):
            seen = length - (end - t) + 1 if window_size[1] == 0 else length  # aligned at the last key
            for head in range(query.shape[1]):
                shared = head * key.shape[1] // query.shape[1]
                k, v = (x[start : start + seen, shared].double() for x in (key, value))
                weights = (k @ query[t, head].double() / math.sqrt(query.shape[-1])).softmax(0)
                out[t, head] = (weights @ v).to(out)
    return out


METHODS = [NoPruning(), FastV(keep=0.4), PyramidDrop(), VisionPulse()]


@pytest.mark.parametrize("pruner", METHODS, ids=lambda p: type(p).__name__)
def test_equals_masks(model: Model, pruner: Pruner, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def run() -> list[Any]:
        traces = Engine(model, slots=2).run(prompts(3), pruner, Decoding(max_new_tokens=4, ignore_eos=True))
        return [(t.id, t.error, t.token_ids, t.flops) for t in traces]

    def counted(*arguments: Any, **options: Any) -> Tensor:
        calls.append("seqused_k" in options)
        return kernel(*arguments, **options)

    masked = run()
    monkeypatch.setattr(varlen, "_kernel", counted)
    for module in ("prefill", "step"):
        monkeypatch.setattr(f"harness.engine.{module}.works", lambda *_: True)
    assert run() == masked and masked[0][1] is None
    assert set(calls) == ({False} if isinstance(pruner, VisionPulse) else {False, True})


def test_a_cpu_has_none() -> None:
    assert not varlen.works(torch.device("cpu"), torch.bfloat16, 4, 2, 32)


def absent(*_: Any, **__: Any) -> Tensor:
    raise RuntimeError("no such kernel")


@pytest.mark.parametrize(
    ("odd", "reason"),
    [(lambda *a, **k: kernel(*a, **k) + 1, "differs by 1"), (absent, "fails: no such kernel")],
)
def test_a_kernel_that_is_wrong_is_not_used(
    odd: Any, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Gpu:
        type = "cuda"

    real = torch.Generator, torch.randn, torch.tensor, torch.arange
    monkeypatch.setattr(torch, "Generator", lambda _: real[0]())
    for name, function in zip(("randn", "tensor", "arange"), real[1:], strict=True):
        monkeypatch.setattr(torch, name, lambda *a, f=function, **k: f(*a, **{**k, "device": "cpu"}))
    varlen.works.cache_clear()
    monkeypatch.setattr(varlen, "_kernel", kernel)
    assert varlen.works(Gpu(), torch.bfloat16, 4, 2, 32)  # type: ignore[arg-type]
    varlen.works.cache_clear()
    monkeypatch.setattr(varlen, "_kernel", odd)
    assert not varlen.works(Gpu(), torch.bfloat16, 4, 2, 32)  # type: ignore[arg-type]
    varlen.works.cache_clear()
    assert reason in caplog.text and "slower" in caplog.text
