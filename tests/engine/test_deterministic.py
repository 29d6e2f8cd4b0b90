"""`deterministic`: torch's switch is on while a run lasts, and what cannot be deterministic says so."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from harness.engine import Decoding, Engine
from harness.engine.deterministic import NotDeterministic, require
from harness.models import Model
from pruners import NoPruning, Pruner, Selection, View
from tests.conftest import prompts

NEW = Decoding(max_new_tokens=4)


@dataclass(frozen=True, kw_only=True)
class Careless(Pruner):
    """Uses the one operation that is not deterministic on a CPU either."""

    def at_embed(self, view: View) -> Selection | None:
        torch.zeros(4).put_(torch.tensor([1]), torch.tensor([1.0]))
        return None


def test_the_switch_is_on_meanwhile_and_off_afterwards(trained: Model) -> None:
    """Also for who stops early."""
    want = [trace.token_ids for trace in Engine(trained).run(prompts(4), NoPruning(), NEW)]
    got = []
    for trace in Engine(trained, deterministic=True).run(prompts(4), NoPruning(), NEW):
        assert torch.are_deterministic_algorithms_enabled()
        got.append(trace.token_ids)
    assert got == want and not torch.are_deterministic_algorithms_enabled()
    traces = Engine(trained, deterministic=True).run(prompts(4), NoPruning(), NEW)
    next(traces)
    traces.close()
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("threads", [1, 2])
def test_what_cannot_be_stops_the_run(trained: Model, threads: int) -> None:
    """With one line, instead of failing every sample; without the switch the method runs."""
    torch.set_num_threads(threads)
    asked = prompts(4)
    with pytest.raises(NotDeterministic) as error:
        list(Engine(trained, deterministic=True).run(asked, Careless(), NEW))
    assert str(error.value) == (
        "engine.deterministic=true cannot be kept: put_ does not have a deterministic implementation"
    )
    assert not torch.are_deterministic_algorithms_enabled()
    assert not any(trace.error for trace in Engine(trained).run(asked, Careless(), NEW))


def test_cublas_needs_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    require(torch.device("cpu"))
    with pytest.raises(NotDeterministic, match="CUBLAS_WORKSPACE_CONFIG=:4096:8"):
        require(torch.device("cuda"))
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    require(torch.device("cuda"))
