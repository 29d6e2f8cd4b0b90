"""`seeds=`: which replies to a sample are made; `repeats=n` is the first n of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.runs.errors import InputError

SAMPLED = ("protocol.temperature=1.0", "limit=5")


def numbers(outcome: Any) -> set[int]:
    (log,) = outcome.cell.folder.glob("samples-*.jsonl")
    return {json.loads(line)["repeat"] for line in log.read_text().splitlines()}


def test_repeats_are_the_first_seeds(run: Any, backend: Any) -> None:
    """One cell whichever way it is asked for: what is there is not made again."""
    (first,) = run(*SAMPLED, "repeats=2")
    (more,) = run(*SAMPLED, "seeds=[0,1,4]")
    assert more.cell.folder == first.cell.folder and more.cell.hash == first.cell.hash
    assert numbers(more) == {0, 1, 4} and len(backend.engines[-1].seen) == 5
    assert more.summary["n"] == 15 and more.summary["complete"]


def test_the_summary_holds_pass_and_mean(run: Any) -> None:
    summary = run(*SAMPLED, "seeds=[2,5,7]")[0].summary
    found = summary["repeated"]
    assert (found["replies"], found["samples"]) == (3, 5)
    assert found["mean@3"] == pytest.approx(summary["accuracy"]) == pytest.approx(found["pass@1"])
    assert found["pass@1"] <= found["pass@2"] <= found["pass@3"]
    assert "repeated" not in run(*SAMPLED, "repeats=1")[0].summary


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seeds=[0,1]"], "seeds= needs protocol.temperature > 0"),
        (["seeds=[0,1]", "repeats=2", "protocol.temperature=1"], "give one of them"),
        (["seeds=[0,0]", "protocol.temperature=1"], "different whole numbers from 0 on"),
        (["seeds=[-1]", "protocol.temperature=1"], "different whole numbers from 0 on"),
        (["seeds=[]", "protocol.temperature=1"], "different whole numbers from 0 on"),
        (["seeds=3", "protocol.temperature=1"], "seeds must be"),
    ],
)
def test_what_makes_no_sense(plan: Any, overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan(*overrides)
