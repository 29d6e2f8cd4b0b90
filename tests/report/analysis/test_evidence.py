"""Evidence by step against the evidence recall of the samples, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from harness.report.analysis.evidence import draw, findings, measure, visible_when_needed
from harness.report.analysis.stored import looked
from harness.runs.errors import InputError
from tests.report.analysis.made import ask, reply


@pytest.mark.parametrize(
    ("method", "dense"),
    [("none", 0), ("random", 0), ("fastv", 2), ("visionpulse_10", 2)],  # layers below the one that the method acts at
)
def test_mean_equals_the_evidence_of_the_samples(small_runs: Path, method: str, dense: int) -> None:
    replies = list(looked(replace(ask(), results=small_runs), method=method))
    assert {reply.sample["task"] for reply in replies} == {"glyph_lookup", "glyph_walk"}
    for own in replies:
        shares = visible_when_needed(own)
        mean = (dense + (4 - dense) * sum(shares) / len(shares)) / 4
        assert mean == pytest.approx(own.sample["evidence"], abs=1e-5)


def test_a_cell_is_needed_when_it_is_read() -> None:
    made = reply()  # pips of c3, c2 and b2 (tokens 18, 10, 9) are written at steps 1, 6, 11, arrows at 4, 9, 12
    made.record["shown"] = [[0, []], [4, [18]], [6, [10, 9]], [11, []]]
    assert visible_when_needed(made) == [0.5, 1.0, 0.0]


def test_other_worlds_and_tokenizers_are_an_error() -> None:
    for made in (reply(task="mathverse"), reply(steps=40)):
        made.record["shown"] = [[0, [1]]]
        with pytest.raises(InputError, match="evidence needs"):
            visible_when_needed(made)


def test_table_has_all_methods_at_a_third_and_steps(small_runs: Path) -> None:
    frame = measure(replace(ask(), results=small_runs))
    assert set(frame.method) == {"none", "random", "fastv", "fastv+dstp", "visionpulse_10"}
    starts = frame[(frame.task == "glyph_walk") & (frame.cell == 0)]
    assert set(starts.n) == {6}
    assert (frame[frame.method == "none"].visible == 1).all()
    assert len(draw(frame).axes) == 1


def frame(dstp: float, once: float) -> pd.DataFrame:
    rows = [("fastv", 0, 9, 0.9), ("fastv", 1, 9, once), ("fastv", 2, 1, 0.0),
            ("fastv+dstp", 0, 9, 0.9), ("fastv+dstp", 1, 10, dstp)]  # fmt: skip
    made = pd.DataFrame(rows, columns=["method", "cell", "n", "visible"])
    return made.assign(model="m", task="glyph_walk", low=0.0, high=1.0)


def test_findings_weigh_cells_by_replies() -> None:
    misses, back = findings(frame(dstp=0.6, once=0.5))
    assert (misses.holds, back.holds) == (True, True)
    assert "fastv 90% and 45%" in misses.numbers
    misses, back = findings(frame(dstp=0.6, once=1.0).assign(visible=lambda f: f.visible.where(f.cell != 2, 1.0)))
    assert (misses.holds, back.holds) == (False, False)
