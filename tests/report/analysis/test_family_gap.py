"""What is kept of the full model's accuracy, by family of questions; which methods read the question."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from harness.report.analysis.family_gap import draw, findings, measure
from harness.report.analysis.stored import samples
from tests.report.analysis.made import ask


def test_table_of_stored_runs(small_runs: Path) -> None:
    own = replace(ask(), results=small_runs)
    frame, rows = measure(own), samples(own)
    assert set(frame.family) == {"look-up by colour", "look-up by position", "glyph_walk"}
    assert set(frame.method) == {"random", "fastv"}  # no add-ons, and no methods without a budget
    assert (frame.glance == (frame.family != "glyph_walk")).all()
    assert (frame.query_aware == (frame.method == "fastv")).all()
    for row in frame.to_dict("records"):
        lookup = row["family"].rpartition(" ")[2]
        cell = rows[(rows.method == row["method"]) & (rows.keep == row["keep"]) & (rows.addon == "none")]
        cell = cell[(cell.category == lookup) if row["glance"] else (cell.task == "glyph_walk")]
        assert row["n"] == len(cell) and row["accuracy"] == cell.credit.mean()
        assert row["kept"] == pytest.approx(row["accuracy"] / row["full"])
        assert row["low"] <= row["kept"] <= row["high"]
    assert len(draw(frame).axes) == 3


def frame(glance: float, walk: float, keep: float = 1 / 3) -> pd.DataFrame:
    rows = [("look-up", True, glance), ("walk", False, walk)]
    made = pd.DataFrame(rows, columns=["family", "glance", "kept"])
    return made.assign(model="m", method="fastv", query_aware=True, keep=keep, low=0.0, high=1.0)


def test_findings() -> None:
    kept, gap = findings(frame(0.95, 0.2))
    assert (kept.holds, gap.holds) == (True, True) and "fastv 80% and 5%" in gap.numbers
    kept, gap = findings(frame(0.9, 0.95))
    assert (kept.holds, gap.holds) == (False, False)
    kept, _ = findings(frame(0.95, 0.2).assign(query_aware=False))
    assert kept.holds is None
    assert findings(frame(0.95, 0.2, keep=0.5)) == []
