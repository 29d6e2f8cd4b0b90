"""Steps several at once, compiled or captured write what plain steps write, and fall back with a word."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from harness.engine import Decoding, Engine, capture, decode
from harness.engine.capture import Runner
from harness.engine.decode import Decode
from harness.engine.step import Step
from harness.models import Model
from pruners import DSTP, FastV, NoPruning, Pruner, VisionPulse
from pruners.views import StepView, Visible
from tests.conftest import prompts
from tests.engine.test_spill import notices, untimed

__all__ = ["notices"]
NEW = Decoding(max_new_tokens=40)
PULSE, RECALL = VisionPulse(low=0.1, high=0.4), DSTP(base=FastV(), tau=0.99, L=5)


@pytest.mark.parametrize("pruner", [NoPruning(), FastV(), PULSE, RECALL], ids=repr)
def test_several_steps_at_once(model: Model, pruner: Pruner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens, counts of steps, FLOPs, bytes and triggers; a method that recalls is looked at after every step."""
    looks, told = list[int](), Decode.told

    def counted(self: Decode, steps: list[Any]) -> list[Any]:
        looks.append(len(steps))
        return told(self, steps)

    monkeypatch.setattr(Decode, "told", counted)
    requests, want = prompts(10), dict[str, Any]()
    for at_once in (1, 4):
        looks.clear()
        traces = [*Engine(model, slots=3, at_once=at_once, ahead=False).run(requests, pruner, NEW)]
        bytes_ = {t.id: (t.kv_bytes["visible"], t.kv_bytes["resident"]) for t in traces}
        got = {"traces": untimed(traces), "bytes": bytes_}
        want = want or got
        assert got == want
        assert set(looks) == {1 if pruner is RECALL else at_once}
    if pruner is RECALL:
        assert any(t["triggers"] for t in want["traces"].values())


@pytest.mark.slow
@pytest.mark.parametrize("pruner", [NoPruning(), PULSE, RECALL], ids=repr)
def test_compiled_steps(trained: Model, pruner: Pruner, notices: Any) -> None:
    """Really compiled: nothing is said, and the compiler has made graphs."""
    requests = prompts(8)
    want = {t.id: t.token_ids for t in Engine(trained, slots=4).run(requests, pruner, NEW)}
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    got = {t.id: t.token_ids for t in Engine(trained, slots=4, compiled=True).run(requests, pruner, NEW)}
    assert got == want and not notices.records
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


@dataclass(frozen=True, kw_only=True)
class Peeks(VisionPulse):
    """Looks at a value in the middle of a step, which no compiler can."""

    def at_step(self, view: StepView) -> Visible | None:
        return super().at_step(view) if float(view.length.sum()) > 0 else None


def test_steps_that_cannot_be_compiled(trained: Model, notices: Any) -> None:
    """Run as they are, which is said once."""
    requests, pruner = prompts(6), Peeks(low=0.1, high=0.4)
    want = untimed([*Engine(trained, slots=4).run(requests, pruner, NEW)])
    torch._dynamo.reset()
    engine = Engine(trained, slots=4, compiled=True)
    for _ in range(2):
        assert untimed([*engine.run(requests, pruner, NEW)]) == want
    said = [r.getMessage() for r in notices.records]
    assert len(said) == 1 and said[0].startswith("decode steps are not compiled, which is slower: ")


class Noted(Runner):
    """Remembers what its forward was called with and what it did, for `Pretended`."""

    last: ClassVar[Any]
    log: ClassVar[list[tuple[object, object, str]]] = []
    broken: ClassVar[bool] = False

    def __init__(self, step: Step, compiled: bool, captured: bool) -> None:
        super().__init__(step, compiled, captured)
        self.args: tuple[Any, ...] = ()
        plain = self.forward

        def forward(*args: Any) -> Tensor:
            self.args, Noted.last = args, self
            self.made = plain(*args)
            return self.made

        self.forward = forward

    def __call__(self, *args: Any) -> Tensor:
        Noted.last, count = self, len(Noted.log)
        out = super().__call__(*args)
        if len(Noted.log) == count:
            Noted.log.append((self.step.version, args, "plain"))
        return out


def memory(step: Step) -> list[Tensor]:
    """Every tensor that a step writes to."""
    layers = [getattr(layer, f.name) for layer in step.cache.layers for f in fields(layer)]
    own = [*vars(step).values(), *step.state.values(), *vars(step.cache).values()]
    return [x for x in (*layers, *own) if isinstance(x, Tensor)]


class Pretended:
    """A graph without a GPU: capture leaves no trace in memory, replay runs the step into the captured results."""

    def replay(self) -> None:
        step = self.runner.step
        step.view = step.query = None  # a replay sets nothing in Python
        logits = self.runner.step.forward(*self.args)
        self.logits.copy_(logits)
        if self.view is not None and step.view is not None:
            for f in fields(self.view):
                old, new = getattr(self.view, f.name), getattr(step.view, f.name)
                if isinstance(old, Tensor) and old is not new:
                    old.copy_(new)
        if self.query is not None and step.query is not None:
            self.query.copy_(step.query)
        step.view = step.query = None
        Noted.log.append((step.version, self.args, "replay"))

    @staticmethod
    @contextmanager
    def capture(graph: Pretended, **options: Any) -> Iterator[None]:
        if Noted.broken:
            raise RuntimeError("operation not permitted when stream is capturing")
        graph.runner = Noted.last
        held = memory(graph.runner.step)
        before = [x.clone() for x in held]
        yield
        step = graph.runner.step
        graph.args, graph.logits, graph.view, graph.query = graph.runner.args, graph.runner.made, step.view, step.query
        for x, old in zip(held, before, strict=True):
            x.copy_(old)
        Noted.log.append((step.version, graph.args, "capture"))

    runner: Noted
    args: tuple[Any, ...]
    logits: Tensor
    view: Any
    query: Any


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Pretended)
    monkeypatch.setattr(torch.cuda, "graph", Pretended.capture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    monkeypatch.setattr(decode, "Runner", Noted)
    monkeypatch.setattr(capture, "BLOCK", 16)
    monkeypatch.setattr(Noted, "log", [])
    monkeypatch.setattr(Noted, "broken", False)


def captured(model: Model, **options: Any) -> Engine:
    engine = Engine(model, slots=2, ahead=False, **options)
    engine.captured = True
    return engine


@pytest.mark.usefixtures("pretend")
@pytest.mark.parametrize("at_once", [1, 4])
@pytest.mark.parametrize("pruner", [NoPruning(), FastV(), PULSE, RECALL], ids=repr)
def test_captured_steps(model: Model, pruner: Pruner, at_once: int, notices: Any) -> None:
    """New lengths run plain, then are captured, then replayed; all anew when buffers have grown."""
    requests = sorted(prompts(10), key=lambda r: len(r.content))  # so that later ones need larger buffers
    want = untimed([*Engine(model, slots=2, ahead=False).run(requests, pruner, NEW)])
    Noted.log.clear()
    got = untimed([*captured(model, at_once=at_once).run(requests, pruner, NEW)])
    assert {i: t["token_ids"] for i, t in got.items()} == {i: t["token_ids"] for i, t in want.items()}
    assert {i: t["triggers"] for i, t in got.items()} == {i: t["triggers"] for i, t in want.items()}
    assert {i: t["flops"] for i, t in got.items()} == {i: t["flops"] for i, t in want.items()}
    assert not notices.records
    versions = list(dict.fromkeys(version for version, _, _ in Noted.log))
    assert len(versions) > 1
    assert [v for v, _, _ in Noted.log] == sorted((v for v, _, _ in Noted.log), key=versions.index)  # none comes back
    seen: dict[object, list[str]] = {}
    for version, args, what in Noted.log:
        seen.setdefault((version, args), []).append(what)
    for what in seen.values():
        assert what == ["plain", "capture", *["replay"] * (len(what) - 2)][: len(what)]
    assert sum(what.count("replay") for what in seen.values()) > sum(len(what) > 1 for what in seen.values()) > 2


@pytest.mark.usefixtures("pretend")
def test_replay_restores_what_the_host_reads(trained: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that recalls reads the view and the query of the graph that was replayed, not of the last captured."""
    seen, call = list[tuple[int, bool, bool]](), Noted.__call__

    def watched(self: Noted, *args: Any) -> Tensor:
        out = call(self, *args)
        view, query = self.step.view, self.step.query
        assert view is not None and query is not None
        held = self.graphs.get(args)
        if held is not None:
            seen.append((id(held), view is held.view, query is held.query))
        return out

    monkeypatch.setattr(Noted, "__call__", watched)
    [*captured(trained).run(prompts(10), RECALL, NEW)]
    assert len({graph for graph, _, _ in seen}) > 2 and all(view and query for _, view, query in seen)


@pytest.mark.usefixtures("pretend")
def test_steps_that_cannot_be_captured(trained: Model, notices: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Noted, "broken", True)
    requests = prompts(6)
    want = untimed([*Engine(trained, slots=2, ahead=False).run(requests, PULSE, NEW)])
    for _ in range(2):
        got = untimed([*captured(trained).run(requests, PULSE, NEW)])
        assert {i: t["token_ids"] for i, t in got.items()} == {i: t["token_ids"] for i, t in want.items()}
    (said,) = notices.records
    assert said.getMessage().startswith("decode steps are not captured, which is slower: operation not permitted")
    assert {what for _, _, what in Noted.log} == {"plain"}
