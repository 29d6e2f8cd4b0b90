"""With `fixed_batch` a sample has the same bits whoever shares its batch."""

from __future__ import annotations

import random

import pytest
import torch

from harness.engine import Decoding, Engine, Request
from harness.models import Model
from pruners import Pruner
from tests.conftest import prompts
from tests.engine.methods import METHODS

Replies = dict[str, list[torch.Tensor]]
SLOTS = 5


def logits(model: Model, requests: list[Request], pruner: Pruner, *, slots: int = SLOTS, fixed: bool = True) -> Replies:
    """The logits [V] of every token of every reply."""
    seen: Replies = {}

    def listen(request: Request, row: torch.Tensor) -> None:
        seen.setdefault(request.id, []).append(row.clone())

    engine = Engine(model, slots=slots, fixed_batch=fixed)
    traces = list(engine.run(requests, pruner, Decoding(max_new_tokens=8), listen=listen))
    assert len(traces) == len(requests) and not any(trace.error for trace in traces)
    return seen


def same(mine: Replies, others: Replies) -> bool:
    return all(torch.equal(torch.stack(rows), torch.stack(others[name])) for name, rows in mine.items())


def check(model: Model, pruner: Pruner) -> None:
    """Alone, with others, and in another order."""
    requests = prompts(7)
    together = logits(model, requests, pruner)
    assert same(logits(model, random.Random(1).sample(requests, len(requests)), pruner), together)
    for request in requests[2:4]:
        assert same(logits(model, [request], pruner), together)


@pytest.mark.parametrize("name", METHODS)
def test_a_sample_has_the_same_bits_in_any_company(name: str, trained: Model) -> None:
    """Under every method."""
    check(trained, METHODS[name])


@pytest.mark.parametrize("name", ["none", "pyramiddrop", "divprune+restore", "random+dstp"])
def test_of_every_family(name: str, model: Model) -> None:
    """On every kind of model."""
    check(model, METHODS[name])


def test_with_several_threads(trained: Model) -> None:
    """The number of threads may change the bits, but not while the engine runs."""
    torch.set_num_threads(4)
    check(trained, METHODS["none"])


def test_sampled_replies(trained: Model) -> None:
    """Of sampled replies the tokens are the same, too."""
    decoding = Decoding(max_new_tokens=8, temperature=1.5, top_p=0.9, presence_penalty=0.5)
    requests, engine = prompts(7), Engine(trained, slots=SLOTS, fixed_batch=True)

    def replies(asked: list[Request]) -> dict[str, list[int]]:
        return {trace.id: trace.token_ids for trace in engine.run(asked, METHODS["none"], decoding)}

    together = replies(requests)
    assert replies(requests[::-1]) == together
    assert replies(requests[3:4]) == {"p3": together["p3"]}


def test_contradictions(trained: Model) -> None:
    with pytest.raises(ValueError, match="contradict"):
        Engine(trained, fixed_batch=True, compiled=True)


def test_without_it_bits_depend_on_the_batch(trained: Model) -> None:
    """What the test above would miss if its samples were too alike."""
    requests = prompts(9)
    together = logits(trained, requests, METHODS["none"], fixed=False)
    assert not all(same(logits(trained, [r], METHODS["none"], fixed=False), together) for r in requests)
