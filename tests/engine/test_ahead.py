"""Work in the background changes nothing but time: equal traces, equal failures, and no thread is left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from harness.engine import Engine, Request
from harness.models import Model
from harness.models.base import Features, PictureInput
from pruners import DSTP, FastV, NoPruning, Pruner, PyramidDrop, ToMe, View, VisionPulse
from tests.conftest import prompts
from tests.engine.test_spill import NEW, untimed

METHODS: list[Pruner] = [
    NoPruning(), FastV(), PyramidDrop(), ToMe(keep=0.4), VisionPulse(low=0.1, high=0.4),
    DSTP(base=FastV(), tau=0.99, L=5),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _two_threads(_threads: None) -> Iterator[None]:
    """With one, nothing runs in the background."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def workers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("vtpbench")]


@pytest.mark.parametrize("pruner", METHODS, ids=repr)
def test_equal_traces(model: Model, pruner: Pruner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several packs of four; the tower, or the embedding before prefill, is seen to run in another thread."""
    requests, threads, prepare = prompts(14), set[str](), model.prepare

    def seen(request: Request) -> Any:
        threads.add(threading.current_thread().name)
        return prepare(request)

    monkeypatch.setattr(model, "prepare", seen)
    want = untimed([*Engine(model, slots=4, ahead=False).run(requests, pruner, NEW)])
    assert threads == {threading.current_thread().name}
    threads.clear()
    got = untimed([*Engine(model, slots=4, ahead=True).run(requests, pruner, NEW)])
    assert threads and all(name.startswith("vtpbench-ahead") for name in threads)
    assert got == want and len(got) == 14
    assert not workers() and torch.get_num_threads() == 2


@dataclass(frozen=True, kw_only=True)
class Refuses(Pruner):
    """Fails one sample in prefill."""

    victim: str

    def at_embed(self, view: View) -> None:
        if view.sample.id == self.victim:
            raise ValueError("not this one")


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("where", ["picture", "tower", "prefill"])
def test_only_the_culprit_is_lost(trained: Model, where: str, ahead: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else is in its pack: a damaged picture, a tower that fails on a picture, a method that raises."""
    requests, many = prompts(12), trained.encode_many
    want = untimed([*Engine(trained, slots=6, ahead=False).run(requests, NoPruning(), NEW)])
    pruner: Pruner = NoPruning()
    if where == "picture":
        requests[5] = replace(requests[5], content=(b"no picture", "what?"))
    elif where == "prefill":
        pruner = Refuses(victim="p5")
    else:
        bad = {picture.key for picture in trained.prepare(requests[5]).pictures}

        def fails(pictures: list[PictureInput], *rest: Any) -> list[Features]:
            if any(picture.key in bad for picture in pictures):
                raise ValueError("the tower fails")
            return many(pictures, *rest)

        monkeypatch.setattr(trained, "encode_many", fails)
    traces = [*Engine(trained, slots=6, ahead=ahead).run(requests, pruner, NEW)]
    assert [(t.id, t.finish) for t in traces if t.error] == [("p5", "error")]
    (told,) = [t.error for t in traces if t.error]
    assert {"picture": "BadSample", "tower": "the tower fails", "prefill": "not this one"}[where] in told
    assert untimed([t for t in traces if not t.error]) == {i: trace for i, trace in want.items() if i != "p5"}


def test_a_consumer_that_stops_early(trained: Model) -> None:
    """The thread ends, torch has its threads back, and no more requests are taken."""
    taken: list[str] = []

    def requests() -> Iterator[Request]:
        for request in prompts(60):
            taken.append(request.id)
            yield request

    traces = Engine(trained, slots=4, ahead=True).run(requests(), NoPruning(), NEW)
    next(traces)
    assert workers()
    traces.close()  # type: ignore[attr-defined]
    assert not workers() and torch.get_num_threads() == 2
    assert 4 <= len(taken) <= 24


@pytest.mark.parametrize("ahead", [False, True])
def test_requests_that_raise(trained: Model, ahead: bool) -> None:
    """The error comes out, whoever was asking for the next request."""

    def requests() -> Iterator[Request]:
        yield from prompts(9)
        raise RuntimeError("no more data")

    engine = Engine(trained, slots=4, ahead=ahead)
    with pytest.raises(RuntimeError, match="no more data"):
        list(engine.run(requests(), NoPruning(), NEW))
    assert not workers() and torch.get_num_threads() == 2
    assert len(untimed([*engine.run(prompts(9), NoPruning(), NEW)])) == 9
