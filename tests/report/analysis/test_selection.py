"""Scores and maps of a larger static choice and of DSTP, and what is said of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from harness.report.analysis.evidence import read_steps, readable
from harness.report.analysis.selection import BASE, DSTP, FULL, PULSE, STATIC, draw, findings, measure
from harness.report.analysis.stored import looked
from tests.report.analysis.made import ask


def test_scores_and_maps_of_stored_runs(small_runs: Path) -> None:
    own = replace(ask(), results=small_runs)
    frame = measure(own)
    score, tokens = frame[frame.part == "score"], frame[frame.part == "map"]
    assert set(score[score.task == "glyph_walk"].case) == {FULL, STATIC, BASE, DSTP, PULSE}
    static = tokens[tokens.case == STATIC]
    assert static.groupby("column").visible.sum().between(42, 43).all()  # two thirds of 64
    assert (static.groupby("column").needed.sum() == 1).all() and set(tokens.case) == {STATIC, DSTP}
    (drawn,) = set(tokens.id)
    (reply,) = [r for r in looked(own, method="fastv", addon="none", task="glyph_walk")
                if r.sample["id"] == drawn and r.sample["keep"] > 0.5]  # fmt: skip
    first = static[static.column == 0].reset_index()
    assert set(first.index[first.needed.astype(bool)]) == set(reply.record["needed"][0])
    assert set(first.index[first.visible.astype(bool)]) == readable(reply.record["shown"], read_steps(reply)[0][0])
    assert len(draw(frame).axes) == 2 * 7


def frame(**accuracy: float) -> pd.DataFrame:
    cases = {FULL: 1.0, STATIC: 0.5, BASE: 0.1, DSTP: 0.6, PULSE: 0.98, **accuracy}
    rows = [{"case": case, "accuracy": value} for case, value in cases.items()]
    made = pd.DataFrame(rows).assign(part="score", model="m", task="glyph_walk")
    return made.assign(low=made.accuracy - 0.04, high=made.accuracy + 0.04)


def test_findings() -> None:
    pulse, back, static = findings(frame())
    assert (pulse.holds, back.holds, static.holds) == (True, True, True) and back.numbers.startswith("56% of the loss")
    *_, static = findings(frame(**{DSTP: 0.55}))  # better, but the intervals meet
    assert static.holds is False
    pulse, back, static = findings(frame(**{PULSE: 0.97, DSTP: 0.39}))
    assert (pulse.holds, back.holds, static.holds) == (False, False, False)
