"""Tidy frames from made cell folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.runs.errors import InputError
from harness.tables import TablesError, cells_frame, leaderboard, samples_frame
from harness.tables.frames import varying
from tests.tables.conftest import verdict

Write = Callable[..., Path]


def test_counts_and_means_of_a_cell(results: Path, cell: Write) -> None:
    cell("fastv", [1.0, 0.0, 1.0, None, 1.0], keep=0.25)
    row = cells_frame(results).iloc[0]
    assert (row.model, row.benchmark, row.protocol, row.decoding) == ("tiny_qwen3_vl", "glyph_walk", "vtp/1", "greedy")
    assert (row.method, row.addon, row.keep) == ("fastv", "none", 0.25)
    assert (row.n, row.failed, row.accuracy) == (4, 1, 0.75)
    assert (row.unparsed, row.truncated) == (0.25, 0.25)
    assert (row.ret_nominal, row.ret_prefill, row.ret_decode, row.kv) == (0.25, 0.25, 0.25, 0.25)
    assert (row.trace_length, row.flops_prefill, row.seconds) == (31.5, 30e6, pytest.approx(0.034))


def test_nominal_retention(results: Path, cell: Write) -> None:
    for method, tokens in (("none", None), ("blind", None), ("oracle", None), ("stride", 16)):
        cell(method, [1.0], tokens=tokens)
    nominal = cells_frame(results).set_index("method").ret_nominal.to_dict()
    assert (nominal["none"], nominal["blind"], nominal["stride"]) == (1.0, 0.0, 0.25)
    assert nominal["oracle"] != nominal["oracle"]


def test_first_line_counts_over_all_writers(results: Path, cell: Write) -> None:
    folder = cell("none", [1.0, 0.0])
    lines = [json.loads(line) for line in (folder / "samples-main.jsonl").read_text().splitlines()]
    more = [lines[1] | {"text": "so 1"}, lines[1] | {"repeat": 1, "text": "so 0.5"}, lines[0] | {"id": "s9"}]
    (folder / "samples-other.jsonl").write_text("\n".join(map(json.dumps, more))[:-20])
    again = [verdict(1, 1.0, "glyph.walk"), verdict(1, 0.5, "glyph.walk") | {"repeat": 1}]
    (scores,) = (folder / "scores").iterdir()
    (folder / "scores" / scores.name.replace("main", "other")).write_text("\n".join(map(json.dumps, again)) + "\n")
    frame = samples_frame(results).set_index(["id", "repeat"])
    assert frame.credit.to_dict() == {("s0", 0): 1.0, ("s1", 0): 0.0, ("s1", 1): 0.5}
    assert frame.text["s1", 0] == lines[1]["text"]


def test_a_broken_line_is_named(results: Path, cell: Write) -> None:
    folder = cell("none", [1.0])
    with (folder / "samples-main.jsonl").open("a") as log:
        log.write("{\n")
    with pytest.raises(InputError, match=r"samples-main.jsonl, line 2"):
        samples_frame(results)


def test_nothing_to_print_is_one_clear_line(results: Path, cell: Write) -> None:
    with pytest.raises(TablesError, match="no runs under"):
        cells_frame(results)
    folder = cell("none", [1.0])
    with pytest.raises(TablesError, match="there are: glyph_walk"):
        cells_frame(results, benchmarks=["mathverse"])
    with pytest.raises(TablesError, match="base or one of none"):
        leaderboard(results, against="fastv")
    with pytest.raises(TablesError, match="margin"):
        leaderboard(results, margin=0)
    (folder / "config.yaml").write_text("- 1")
    with pytest.raises(TablesError, match="not the configuration"):
        cells_frame(results)


def test_globs_choose_cells(results: Path, cell: Write) -> None:
    for benchmark in ("glyph_walk", "glyph_lookup", "mathverse"):
        cell("none", [1.0], benchmark=benchmark)
    assert set(cells_frame(results, benchmarks=["glyph_*"]).benchmark) == {"glyph_walk", "glyph_lookup"}


def test_a_cell_that_has_only_begun_is_a_row(results: Path, cell: Write) -> None:
    cell("none", [])
    row = cells_frame(results).iloc[0]
    assert (row.n, row.failed) == (0, 0)
    assert row.accuracy != row.accuracy


def test_varying_names_what_differs() -> None:
    assert varying([{"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}}]) == ["c=2", "c=3"]
    assert varying([{"a": 1}, {"a": 1}]) == ["", ""]
