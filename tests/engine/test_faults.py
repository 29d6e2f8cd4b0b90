"""What goes wrong in the middle of a pass costs the sample whose fault it is, and nobody else a token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.engine import Decoding, Engine, Trace
from harness.engine.decode import Decode
from harness.engine.prefill import Entry, Prefill, Prefilled
from harness.engine.step import Step
from harness.models import Model
from pruners import DSTP, FastV, NoPruning, Pruner, View, VisionPulse
from tests.conftest import drawn, prompts, tiny
from tests.engine.test_fast_steps import captured, pretend
from tests.engine.test_spill import notices, untimed

__all__ = ["notices", "pretend"]
NEW = Decoding(max_new_tokens=10)
PULSE, RECALL = VisionPulse(low=0.1, high=0.4), DSTP(base=FastV(), tau=0.99, L=5)
Fault = Callable[[int], None]


@pytest.fixture(params=[1, 2], ids=["alone", "ahead"])
def threads(request: pytest.FixtureRequest, _threads: None) -> Iterator[int]:
    """With one, nothing runs in the background."""
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(1)


def spoil(monkeypatch: pytest.MonkeyPatch, where: str, fault: Fault) -> None:
    """Let a fault happen before a prefill, given its number of samples, or a step, given its number of slots."""
    if where == "prefill":
        run = Prefill.run

        def prefilled(self: Prefill, batch: list[Entry]) -> list[Prefilled]:
            fault(len(batch))
            return run(self, batch)

        monkeypatch.setattr(Prefill, "run", prefilled)
    else:
        advance = Decode.advance

        def advanced(self: Decode, live: list[int]) -> Tensor:
            out = advance(self, live)  # memory runs out when part of the step is in the cache already
            fault(len(live))
            return out

        monkeypatch.setattr(Decode, "advance", advanced)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


@pytest.mark.parametrize(
    ("where", "error"), [("prefill", ERRORS[0]), *(("step", error) for error in ERRORS)], ids=lambda e: str(e)[:8]
)
def test_out_of_memory(
    trained: Model, where: str, error: Exception, threads: int, monkeypatch: pytest.MonkeyPatch,
    notices: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Half the slots, the same tokens, every sample once; the smaller number stays for the next run."""
    requests, calls, (first, most) = prompts(14), list[int](), {"step": (4, 3), "prefill": (1, 2)}[where]
    want = untimed([*Engine(trained, slots=8).run(requests, FastV(), NEW)])

    def fault(samples: int) -> None:
        calls.append(samples)
        if len(calls) > first and samples > most:
            raise error

    spoil(monkeypatch, where, fault)
    engine = Engine(trained, slots=8)
    traces = [*engine.run(requests, FastV(), NEW)]
    assert len(traces) == 14 and untimed(traces) == want
    assert engine.slots == (4 if where == "prefill" and threads == 2 else 2)  # two threads share a prefill
    said = [record.getMessage() for record in notices.records]
    assert said[0].startswith("out of memory with engine.slots=8, from here on it is 4 (")
    assert len(said) == {4: 1, 2: 2}[engine.slots]
    assert len(untimed([*engine.run(requests, FastV(), NEW)])) == 14 and len(notices.records) == len(said)


@pytest.mark.usefixtures("threads")
def test_slots_that_were_found_by_the_engine_are_halved_too(
    trained: Model, monkeypatch: pytest.MonkeyPatch, notices: pytest.LogCaptureFixture
) -> None:
    requests = prompts(9)
    want = untimed([*Engine(trained).run(requests, PULSE, NEW)])
    spoil(monkeypatch, "step", fails_once(8))
    engine = Engine(trained)
    assert untimed([*engine.run(requests, PULSE, NEW)]) == want
    assert engine.slots == 8 and "engine.slots=16, from here on it is 8" in notices.text


def fails_once(number: int) -> Fault:
    calls = list[int]()

    def fault(samples: int) -> None:
        calls.append(samples)
        if len(calls) == number:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    return fault


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("where", ["picture", "tower", "prefill"])
@pytest.mark.parametrize("slots", [1, 6])
def test_what_does_not_fit_alone_fails_alone(
    trained: Model, where: str, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = prompts(7)
    want = untimed([*Engine(trained, slots=6).run(requests, NoPruning(), NEW)])
    large = {picture.key for picture in trained.prepare(requests[5]).pictures}
    prepare, many, run = trained.prepare, trained.encode_many, Prefill.run

    def full(found: bool) -> None:
        if found:
            raise torch.OutOfMemoryError("CUDA out of memory.\nMuch more is said.")

    def prepared(request: Any) -> Any:
        full(request.id == "p5")
        return prepare(request)

    def encoded(pictures: Any, *rest: Any) -> Any:
        full(any(picture.key in large for picture in pictures))
        return many(pictures, *rest)

    def prefilled(self: Prefill, batch: list[Entry]) -> list[Prefilled]:
        full(any(entry[0].id == "p5" for entry in batch))
        return run(self, batch)

    if where == "picture":
        monkeypatch.setattr(trained, "prepare", prepared)
    elif where == "tower":
        monkeypatch.setattr(trained, "encode_many", encoded)
    else:
        monkeypatch.setattr(Prefill, "run", prefilled)
    engine = Engine(trained, slots=slots)
    traces = [*engine.run(requests, NoPruning(), NEW)]
    (bad,) = [trace for trace in traces if trace.error]
    assert bad == Trace(id="p5", finish="error", error="it does not fit into memory, even alone "
                        "(OutOfMemoryError: CUDA out of memory.)")  # fmt: skip
    assert untimed([t for t in traces if t is not bad]) == {i: trace for i, trace in want.items() if i != "p5"}
    assert engine.slots == 1 and len(traces) == 7


def test_other_errors_of_a_step_come_out(trained: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(samples: int) -> None:
        raise RuntimeError("an illegal memory access was encountered")

    spoil(monkeypatch, "step", fault)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        list(Engine(trained, slots=4).run(prompts(4), NoPruning(), NEW))


def test_with_a_listener_nothing_runs_twice(trained: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who listens would hear tokens a second time."""
    spoil(monkeypatch, "step", fails_once(3))
    with pytest.raises(torch.OutOfMemoryError):
        list(Engine(trained, slots=4).run(prompts(4), NoPruning(), NEW, listen=lambda request, logits: None))


def infect(model: Model, monkeypatch: pytest.MonkeyPatch, layer: int, slot: int, step: int) -> None:
    """Let what a layer leaves be NaN in one slot, at the given step of the first sample there that gets so far; for the
    layer behind the last one, the head's logits."""
    run, head, once = model.layer, model.head, list[int]()

    def due(reached: Any) -> bool:
        found = isinstance(reached, Step) and int(reached.generated[slot]) == step and bool(reached.live[slot])
        return found and not once

    last: list[Any] = []

    def layered(k: int, hidden: Tensor, rope: Any, attend: Any) -> Tensor:
        last[:] = [attend]
        hidden = run(k, hidden, rope, attend)
        if k == layer and due(attend):
            once.append(k)
            hidden = hidden.clone()
            hidden[slot] = torch.nan
        return hidden

    def logits(hidden: Tensor) -> Tensor:
        out = head(hidden)
        if layer == model.info.depth and due(last[0]):
            once.append(layer)
            out = out.clone()
            out[slot, 3] = torch.inf
        return out

    monkeypatch.setattr(model, "layer", layered)
    monkeypatch.setattr(model, "head", logits)


def last_layer(model: Model) -> str:
    return f"values stopped being finite in layer {model.info.depth - 1} or the LM head behind it (decode step 4)"


SAMPLED = Decoding(max_new_tokens=10, temperature=0.8)


@pytest.mark.parametrize(
    ("name", "pruner", "decoding", "at_once", "layer"),
    [
        ("trained", NoPruning(), NEW, 1, 1), ("trained", NoPruning(), NEW, 4, -1), ("trained", PULSE, NEW, 4, "head"),
        ("trained", RECALL, NEW, 1, 1), ("trained", FastV(), SAMPLED, 1, "head"), ("internvl", FastV(), NEW, 4, 1),
        ("llava", PULSE, SAMPLED, 1, -1),
    ],
    ids=repr,
)  # fmt: skip
def test_logits_that_are_not_finite(
    name: str, pruner: Pruner, decoding: Decoding, at_once: int, layer: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sample fails, with the layer; whoever gets its slot afterwards, and the others, write what they would."""
    model = tiny(name) if name == "trained" else drawn(name)
    depth, requests = model.info.depth, prompts(9)
    want = untimed([*Engine(model, slots=3, ahead=False).run(requests, pruner, decoding)])
    infect(model, monkeypatch, depth if layer == "head" else int(layer) % depth, slot=1, step=3)
    traces = [*Engine(model, slots=3, ahead=False, at_once=at_once).run(requests, pruner, decoding)]
    (bad,) = [trace for trace in traces if trace.error]
    told = "values stopped being finite in layer 1 (decode step 4)" if layer == 1 else last_layer(model)
    assert (bad.finish, bad.error) == ("error", f"NotFinite: {told}")
    assert untimed([t for t in traces if t is not bad]) == {i: t for i, t in want.items() if i != bad.id}
    assert len(traces) == 9


@pytest.mark.usefixtures("pretend")
def test_logits_that_are_not_finite_in_captured_steps(trained: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = prompts(9)
    want = {t.id: t.token_ids for t in Engine(trained, slots=2, ahead=False).run(requests, PULSE, NEW)}
    infect(trained, monkeypatch, 1, slot=1, step=3)
    traces = [*captured(trained, at_once=4).run(requests, PULSE, NEW)]
    (bad,) = [trace.id for trace in traces if trace.error]
    assert {t.id: t.token_ids for t in traces if t.id != bad} == {i: ids for i, ids in want.items() if i != bad}


@dataclass(frozen=True, kw_only=True)
class Spoils(Pruner):
    """Makes what enters a layer of one sample infinite, as float16 does where values grow too large."""

    victim: str
    layer: int

    def layers(self, depth: int) -> tuple[int, ...]:
        return (self.layer,)

    def at_layer(self, view: View) -> None:
        if view.sample.id == self.victim:
            view.hidden[-1, 0] = torch.inf


@pytest.mark.parametrize("name", ["trained", "llava"])
def test_prefill_that_is_not_finite(name: str) -> None:
    """Its first logits are looked at where the sample gets its slot."""
    model, requests = tiny(name) if name == "trained" else drawn(name), prompts(9)
    want = untimed([*Engine(model, slots=4).run(requests, NoPruning(), NEW)])
    last = model.info.depth - 1
    for layer, told in ((0, "the values that enter layer 0 are not finite"),
                        (last, f"values stopped being finite in layer {last - 1}")):  # fmt: skip
        traces = [*Engine(model, slots=4).run(requests, Spoils(victim="p5", layer=layer), NEW)]
        (bad,) = [trace for trace in traces if trace.error]
        assert (bad.id, bad.finish, bad.error) == ("p5", "error", f"NotFinite: {told}")
        assert {t.id: t.token_ids for t in traces if not t.error} == {
            i: t["token_ids"] for i, t in want.items() if i != "p5"
        }
