"""Layers that read the few shown entries alone, copied together, against the same layers under a mask."""

from __future__ import annotations

from typing import Any

import pytest

from harness.engine import Decoding, Engine, step
from harness.models.base import Model
from pruners import DivPrune, FastV, VisionPulse
from pruners.base import Pruner
from pruners.compose import Pipeline
from tests.conftest import prompts

PULSES = [
    VisionPulse(high=0.3),
    VisionPulse(budget="top_p", high=0.6),
    VisionPulse(budget="random", anchor=1),
    Pipeline(methods=(DivPrune(keep=0.5), VisionPulse(high=0.2))),
]


def traces(model: Model, pruner: Pruner) -> list[dict[str, Any]]:
    runs = Engine(model, slots=3).run(prompts(7), pruner, Decoding(max_new_tokens=9, ignore_eos=True))
    own = {"prefill_seconds", "decode_seconds"}
    return [{k: v for k, v in trace.record().items() if k not in own} for trace in runs]


@pytest.mark.parametrize("pruner", PULSES, ids=str)
def test_equals_masks(model: Model, pruner: Pruner, monkeypatch: pytest.MonkeyPatch) -> None:
    made, compact = [], step.Step._compact

    def counted(*arguments: Any) -> Any:
        made.append(compact(*arguments))
        return made[-1]

    monkeypatch.setattr(step.Step, "_compact", counted)
    monkeypatch.setattr(step, "WORTH", 0.0)
    masked = traces(model, pruner)
    assert made and not any(made) and all(trace["error"] is None for trace in masked)
    made.clear()
    monkeypatch.setattr(step, "WORTH", 1e9)
    assert traces(model, pruner) == masked
    assert made and all(made)


def test_only_where_all_layers_hold_the_same(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise AssertionError("FastV leaves its layers with other entries")

    monkeypatch.setattr(step.Step, "_compact", fails)
    pruner = Pipeline(methods=(FastV(keep=0.5, layer=1), VisionPulse(anchor=1, high=0.3)))
    assert all(trace["error"] is None for trace in traces(model, pruner))
