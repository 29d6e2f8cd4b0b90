"""The published numbers pass every check, and a copy with one fault in it fails the check that looks for it."""

from __future__ import annotations

import filecmp
import os
import re
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from harness.tables.frames import TablesError
from harness.tables.published import Published, spread
from harness.tables.published_view import PublishedTable, published_table
from tests.tables import published_checks, published_recomputed

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "results" / "published"
CHECKS = published_checks.CHECKS | published_recomputed.CHECKS
Edit = Callable[[pd.DataFrame], Any]


@pytest.fixture(scope="module")
def published() -> Published:
    return Published.read()


@pytest.mark.parametrize("name", CHECKS)
def test_the_shipped_tables_are_sound(name: str) -> None:
    assert CHECKS[name](SHIPPED) == []


def test_the_shipped_tables_are_the_original_ones() -> None:
    originals = list(ROOT.parent.glob("shared/published"))
    if not originals:
        pytest.skip("the original tables (../shared/published) are not on this machine")
    names = sorted(path.name for path in originals[0].iterdir())
    assert names == sorted(path.name for path in SHIPPED.iterdir())
    assert filecmp.cmpfiles(originals[0], SHIPPED, names, shallow=False)[0] == names


def put(row: str, **fields: str) -> Edit:
    """An edit of one row."""

    def edit(frame: pd.DataFrame) -> None:
        for column, value in fields.items():
            frame.loc[frame.row_id == row, column] = value

    return edit


def first(**fields: str) -> Edit:
    """An edit of the first row of a small table."""

    def edit(frame: pd.DataFrame) -> None:
        for column, value in fields.items():
            frame.loc[0, column] = value

    return edit


def drop(frame: pd.DataFrame) -> None:
    frame.drop(index=0, inplace=True)


def again(frame: pd.DataFrame) -> None:
    """The first row once more, under a new id if it has one."""
    frame.loc[len(frame)] = frame.loc[0]
    if "row_id" in frame:
        frame.loc[len(frame) - 1, "row_id"] = "p9999"


FAULTS: list[tuple[str, str, Edit, str]] = [
    ("headers", "metrics", lambda frame: frame.drop(columns="note", inplace=True), "metrics: columns"),
    ("ids", "ablations", put("p0261", row_id="p0001"), "p0001: row id twice"),
    ("ids", "results", put("p0002", row_id="q0002"), "q0002: not a row id"),
    ("ids", "method_aliases", first(alias="fastv"), "method_aliases: /fastv twice"),
    ("ids", "benchmarks", again, "benchmarks: ai2d// twice"),
    ("duplicates", "results", again, "p0001: another row has the same key"),
    ("foreign_keys", "results", put("p0001", model_id="qwen4"), "p0001: unknown model_id"),
    ("foreign_keys", "results", put("p0001", model_id=""), "p0001: model missing"),
    ("foreign_keys", "results", put("p0001", method_id="x"), "p0001: unknown method_id"),
    ("foreign_keys", "results", put("p0001", addon_id="x"), "p0001: unknown add-on"),
    ("foreign_keys", "results", put("p0001", split="dev"), "p0001: unknown benchmark"),
    ("foreign_keys", "efficiency", put("p0319", protocol_id="desap"), "p0319: protocol of another paper"),
    ("foreign_keys", "results", put("p0001", copied_from="desap"), "p0001: copied_from 'desap' with measured"),
    ("foreign_keys", "aggregates", put("p0006", members="gqa:f2"), "p0006: unknown member"),
    ("foreign_keys", "method_aliases", first(method_id="x"), "method_aliases 1: unknown method_id"),
    ("foreign_keys", "papers", drop, "p0001: unknown paper_id"),
    ("units", "results", put("p0001", unit="points"), "p0001: unit points"),
    ("units", "results", put("p0001", metric_id="tflops"), "p0001: tflops in results"),
    ("units", "results", put("p0001", value="101"), "p0001: 101 out of range"),
    ("values", "results", put("p0001", value="61.92"), "p0001: 61.92 is not 61.29"),
    ("values", "efficiency", put("p0319", value="100289"), "p0319: 100289 is not 27:51:28"),
    ("values", "efficiency", put("p0322", value="127.27"), "p0322: 127.27 is not 127.27"),
    ("words", "results", put("p0001", provenance="guessed"), "p0001: provenance 'guessed'"),
    ("words", "results", put("p0001", convention_flags="inferred:pope"), "p0001: flag pope"),
    ("words", "results", put("p0001", n_items=""), "p0001: n_source without n_items"),
    ("budgets", "results", put("p0007", retention_nominal="0.5"), "p0007: retention '0.5'"),
    ("budgets", "results", put("p0510", budget_value="128"), "p0510: printed 64 tokens"),
    ("budgets", "results", put("p0510", budget_base_tokens="2880"), "p0510: retention"),
    ("granularity", "granularity", first(on_grid="17"), "granularity dstp mathverse 788"),
    ("granularity", "granularity", first(p_value="5.9e-08"), "granularity dstp mathverse 788"),
    ("granularity", "granularity", first(chance="0.08"), "granularity dstp mathverse 788"),
    ("granularity", "granularity", first(verdict="rejected"), "dstp mathverse 788: supported or used"),
    ("off_grid", "results", put("p0001", value_printed="61.30"), "p0001: off the grid, not in EXCEPTIONS.md 4"),
    ("off_grid", "results", put("p0010", convention_flags=""), "p0010: off the grid, not flagged"),
    ("off_grid", "results", put("p0010", value_printed="30.65"), "p0010: in EXCEPTIONS.md 4, but not off the grid"),
    ("throughput", "efficiency", put("p0354", value="327.8"), "p0354: in EXCEPTIONS.md 3, but not"),
    ("throughput", "efficiency", put("p0322", value="12727"), "not in EXCEPTIONS.md 3"),
    ("averages", "aggregates", put("p0012", value="55.9"), "p0012: off its cells, not in EXCEPTIONS.md 1"),
    ("averages", "aggregates", put("p0012", recomputed="55.7"), "p0012: recomputed 55.6"),
    ("averages", "aggregates", put("p0861", agreement="ok"), "p0861: agreement ok, is off"),
    ("averages", "aggregates", put("p0012", n_members="4"), "p0012: 5 members, says 4"),
    ("averages", "aggregates", put("p0012", rule=""), "p0012: an average without cells, not in EXCEPTIONS.md 2"),
    ("averages", "results", put("p0007", value="32.9"), "p0012: recomputed"),
    ("conflicts", "results", put("p0001", provenance="rerun", value="1"), ""),
    ("conflicts", "conflicts", first(median="58.8"), "conflicts: ('llava_1_5_7b', 'cdpruner'"),
    ("conflicts", "conflicts", drop, "is missing"),
    ("conflicts", "conflicts", first(method_id="fastervlm"), "is no conflict"),
    ("counts", "efficiency", drop, "README: counts of efficiency"),
    ("counts", "papers", first(source_rows="384"), "papers: dstp has 383 rows"),
    ("exceptions", "results", put("p0010", value_printed="30.65"), "EXCEPTIONS.md 4: p0010 is printed 30.65"),
    ("exceptions", "efficiency", put("p0354", row_id="p9354"), "EXCEPTIONS.md 3: no row p0354"),
]


@pytest.mark.parametrize(("check", "table", "edit", "found"), FAULTS)
def test_a_fault_is_found(check: str, table: str, edit: Edit, found: str, tmp_path: Path) -> None:
    for file in SHIPPED.iterdir():
        os.symlink(file, tmp_path / file.name)
    frame = pd.read_csv(SHIPPED / f"{table}.csv", dtype=str, keep_default_na=False)
    edit(frame)
    (tmp_path / f"{table}.csv").unlink()
    frame.to_csv(tmp_path / f"{table}.csv", index=False)
    problems = CHECKS[check](tmp_path)
    assert any(found in problem for problem in problems), problems[:5]
