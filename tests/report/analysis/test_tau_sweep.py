"""The grid of tau and L, and whether the paper's point is its best."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from harness.report.analysis.tau_sweep import draw, findings, measure
from tests.report.analysis.made import ask


def test_grid_of_stored_runs(small_runs: Path) -> None:
    frame = measure(replace(ask(), results=small_runs))
    walks = frame[frame.task == "glyph_walk"]
    assert set(zip(walks.tau, walks.L, strict=True)) == {(0.1, 1), (0.1, 20), (0.75, 1), (0.75, 20)}
    assert set(frame.task) == {"glyph_walk"}  # look-ups ran with the paper's settings alone
    assert set(walks.n) == {6}
    by = walks.set_index(["tau", "L"])
    assert by.triggers[0.75, 1] > by.triggers[0.75, 20] and by.ret_decode[0.75, 20] > by.ret_decode[0.75, 1]
    assert len(draw(frame).axes) == 2


@pytest.mark.parametrize(("paper", "high", "holds"), [(0.5, 0.6, True), (0.3, 0.5, None), (0.1, 0.2, False)])
def test_findings(paper: float, high: float, holds: bool | None) -> None:
    rows = [(0.75, 20, paper, high), (0.75, 5, 0.2, 0.3), (0.5, 20, 0.4, 0.5)]
    frame = pd.DataFrame(rows, columns=["tau", "L", "accuracy", "high"]).assign(model="m", low=0.0, n=10)
    (finding,) = findings(frame)
    assert finding.holds is holds and "tau 0.75, L 20: " in finding.numbers
    (without,) = findings(frame[frame.L == 5])
    assert without.holds is None
