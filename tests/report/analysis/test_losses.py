"""Settings of DSTP that take one loss away, and what is said of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from harness.report.analysis.losses import (
    DECODE,
    DSTP,
    FULL,
    PREFILL,
    PRUNED,
    RANDOM,
    START,
    draw,
    findings,
    measure,
    watched,
)
from harness.runs.errors import InputError
from tests.report.analysis.made import ask


@pytest.mark.parametrize(
    ("triggers", "steps", "length", "free"),
    [([], 9, 20, 9), ([1], 21, 20, 1), ([2, 23], 26, 20, 3), ([1, 3, 5], 6, 1, 3)],
)
def test_watched_steps_are_those_outside_spells(triggers: list[int], steps: int, length: int, free: int) -> None:
    spells = {step for start in triggers for step in range(start + 1, start + length + 1)}
    assert watched(triggers, steps, length) == free == len(set(range(1, steps + 1)) - spells)


def test_cases_of_stored_runs(small_runs: Path) -> None:
    frame = measure(replace(ask(), results=small_runs))
    rows = frame[frame.task == "glyph_walk"].set_index("case")
    assert set(rows.index) - {START} == {FULL, DECODE, PREFILL, DSTP, RANDOM, PRUNED}
    assert rows.loc[FULL, "ret_decode"] == 1
    assert rows.loc[DECODE, "ret_decode"] == pytest.approx(rows.loc[PRUNED, "ret_decode"], abs=0.01)
    assert rows.loc[DECODE, "triggers"] == rows.loc[DECODE, "rate"] == 0
    assert rows.loc[PREFILL, "rate"] == 1 and rows.loc[PREFILL, "ret_decode"] > 0.9
    assert rows.loc[RANDOM, "rate"] > 0.5  # of two rates the one nearer to DSTP's own
    assert len(draw(frame).axes) == 1


def test_runs_without_the_settings_are_an_error(small_runs: Path) -> None:
    with pytest.raises(InputError, match="losses needs"):
        measure(replace(ask(), results=small_runs, benchmarks=("glyph_lookup",)))


def frame(**accuracy: float) -> pd.DataFrame:
    cases = {FULL: 1.0, DECODE: 0.1, PREFILL: 0.05, START: 0.9, DSTP: 0.3, RANDOM: 0.2, PRUNED: 0.0}
    cases |= {{"decode": DECODE, "random": RANDOM}[key]: value for key, value in accuracy.items()}
    rows = [{"case": case, "accuracy": value} for case, value in cases.items()]
    made = pd.DataFrame(rows).assign(model="m", task="t", n=10, rate=0.5, triggers=2.0)
    return made.assign(low=made.accuracy - 0.04, high=made.accuracy + 0.04)


def test_findings() -> None:
    assert [finding.holds for finding in findings(frame())] == [True, True]
    assert [finding.holds for finding in findings(frame(decode=0.95, random=0.3))] == [False, False]
    close = frame(decode=0.85, random=0.25)  # better, but the intervals meet
    assert [finding.holds for finding in findings(close)] == [False, False]
