"""Pivot tables: their cells, what they refuse, bands and fronts, and the four renderings."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console

from harness.tables import leaderboard
from harness.tables.frames import TablesError
from harness.tables.pivot import Pivot, pivot
from harness.tables.pivot_text import METRICS

Write = Callable[..., Path]
FULL = [1.0] * 90 + [0.0] * 10
WORSE = [0.0] * 30 + [1.0] * 60 + [0.0] * 10
LESS = [0.0] * 10 + [1.0] * 80 + [0.0] * 10


@pytest.fixture
def grid(results: Path, cell: Write) -> Path:
    for benchmark in ("gqa", "mathverse"):
        cell("none", FULL, benchmark=benchmark)
        cell("oracle", [1.0] * 100, benchmark=benchmark)
        for keep in (1 / 3, 1 / 9):
            cell("random", WORSE, benchmark=benchmark, keep=keep)
            cell("fastv", LESS, benchmark=benchmark, keep=keep)
        cell("fastv", FULL, benchmark=benchmark, keep=1 / 3, addon="dstp")
    cell("visionzip", LESS, benchmark="gqa", tokens=16)
    return results


def printed(table: Pivot, width: int) -> str:
    out = io.StringIO()
    table.print(Console(file=out, width=width))
    return out.getvalue()


def rows(markdown: str) -> Iterator[list[str]]:
    for line in markdown.splitlines():
        if line.startswith("|"):
            yield [text.strip() for text in line.strip("|").split("|")]


def change(folder: Path, **values: Any) -> None:
    """Write other values into a cell's config.yaml."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(config | values))


def test_the_statistics_are_those_of_the_leaderboard(grid: Path) -> None:
    table, board = pivot(grid), leaderboard(grid)
    shared = ["cell", "accuracy", "difference", "difference_low", "difference_high", "p", "p_holm", "verdict"]
    ours, theirs = (frame[shared].sort_values("cell", ignore_index=True) for frame in (table.frame, board.frame))
    pd.testing.assert_frame_equal(ours, theirs)
    assert any(f"Holm-adjusted over {board.frame.p.notna().sum()} compared cells" in note for note in table.notes)


def test_holm_counts_the_cells_of_the_table_only(grid: Path) -> None:
    one = pivot(grid, benchmarks=["gqa"]).frame
    both = pivot(grid).frame
    where = (one.method == "fastv") & (one.keep < 0.2)
    same = both.cell == one.cell[where].item()
    assert one.p[where].item() == both.p[same].item() and one.p_holm[where].item() < both.p_holm[same].item()


def test_a_cell_shows_value_difference_and_verdict(grid: Path) -> None:
    found = list(rows(pivot(grid).to_markdown()))
    assert found[0] == ["band", "method", "keep", "ret. nominal", "gqa N 100", "mathverse N 100"]
    worse = next(row for row in found if row[1:3] == ["random †", "0.333"])
    assert re.fullmatch(r"60\.0 \(-30\.0 \[-\d\d\.\d, -\d\d\.\d\]\) ↓", worse[4])
    assert next(row for row in found if row[1] == "none")[4:] == ["90.0", "90.0"]
    assert next(row for row in found if row[1] == "visionzip")[5] == "-"


def test_rows_stand_in_bands_of_equal_budget(grid: Path) -> None:
    frame = pivot(grid, benchmarks=["gqa"]).frame
    seen = list(zip(frame.band, frame.row, frame.row_budget, strict=True))
    assert seen == [
        ("full", "none", "full"),
        ("1", "fastv+dstp", "0.333"),
        ("1", "fastv", "0.333"),
        ("1", "random", "0.333"),
        ("2", "visionzip", "16 tok"),
        ("3", "fastv", "0.111"),
        ("3", "random", "0.111"),
        ("-", "oracle", "-"),
    ]
    note = next(note for note in pivot(grid).notes if note.startswith("Bands"))
    assert "5 %" in note and "1: 0.333; 2: 0.25; 3: 0.111." in note and "not as executed" in note


def test_bands_by_executed_flops_need_the_same_columns(grid: Path) -> None:
    table = pivot(grid, budget="flops", metric="flops")
    bands = table.frame.set_index(["row", "row_budget"]).band
    assert set(bands["visionzip", "16 tok"]) == {"-"}  # it lacks a column
    by_hand = table.frame.groupby(["row", "row_budget"]).flops.mean()
    third, ninth = ("fastv", "0.333"), ("fastv", "0.111")
    assert by_hand[ninth] < 0.95 * by_hand[third] and set(bands[third]) == {"1"} and "1" not in set(bands[ninth])
    assert set(bands["random", "0.333"]) == {"1"}
    assert "MFLOPs" in table.to_markdown()


def test_means_over_columns_ask_for_the_columns_of_the_section(results: Path, cell: Write) -> None:
    cell("none", FULL, benchmark="gqa", model="small")
    cell("none", FULL, benchmark="gqa")
    cell("none", FULL, benchmark="mathverse")
    cell("fastv", FULL, benchmark="gqa", keep=0.5)
    text = pivot(results).to_markdown()
    costs = {(row[1], row[4]) for row in rows(text) if row[-1].startswith("T")}
    assert costs == {("none", "170"), ("fastv", "-")}  # 170 MFLOPs in both models, though one has a single column


def test_fronts_of_a_row_are_counted_and_listed(grid: Path) -> None:
    frame = pivot(grid).frame
    gqa = frame[frame.benchmark == "gqa"]
    front = set(zip(gqa.row[gqa.front_flops], gqa.row_budget[gqa.front_flops], strict=True))
    # the add-on costs what its base costs and is as good as the full model; 16 tokens cost less than a third
    assert front == {("fastv+dstp", "0.333"), ("fastv", "0.111")}
    table = pivot(grid)
    assert next(row for row in rows(table.to_markdown()) if row[1] == "fastv+dstp" and row[-1].startswith("T"))[-1] == (
        "T 2/2, s 2/2"
    )
    assert any(note.startswith("oracle: on no front") for note in table.notes)
    listed = next(note for note in table.notes if note.startswith("Front T"))
    assert listed == "Front T, from cheap to dear: gqa: fastv 0.111, fastv+dstp 0.333; mathverse: " + (
        "fastv 0.111, fastv+dstp 0.333."
    )


def test_seconds_of_two_machines_make_no_front(grid: Path) -> None:
    assert any(note.startswith("Machine not recorded for 15 cells") for note in pivot(grid).notes)
    for file in grid.glob("runs/*/*/*/*/config.yaml"):
        device = "cuda:0" if "random" in str(file) and "gqa" in str(file) else "cpu"
        made = {"c0de": {"devices": device, "platform": "Linux"}}
        (file.parent / "environment.json").write_text(json.dumps(made))
    table = pivot(grid)
    assert set(table.frame.benchmark[table.frame.front_seconds]) == {"mathverse"}
    assert "No front s, gqa: seconds were taken on several machines, cpu (Linux), cuda:0 (Linux)." in table.notes
    assert not any("not recorded" in note for note in table.notes)


def test_relative_accuracy_is_the_mean_of_the_ratios(grid: Path) -> None:
    frame = pivot(grid).frame.set_index(["row", "row_budget"])
    assert frame.relative["fastv", "0.111"].tolist() == pytest.approx([80 / 90] * 2)
    row = frame.loc[("random", "0.333")].iloc[0]
    assert row.relative_low < 60 / 90 < row.relative_high
    assert frame.relative[[("visionzip", "16 tok"), ("none", "full")]].isna().all()
    assert "relative %" in pivot(grid).to_markdown()


def test_lengths_are_compared_over_pairs_that_finished(results: Path, cell: Write) -> None:
    folders = [cell("none", FULL), cell("fastv", LESS, keep=0.5)]
    rng = np.random.default_rng(0)
    lengths: list[list[int]] = []
    cut: list[list[bool]] = []
    for folder in folders:
        lines = [json.loads(line) for line in (folder / "samples-main.jsonl").read_text().splitlines()]
        for line in lines:
            line["answer_tokens"] = int(rng.integers(10, 90))
            line["finish"] = "length" if rng.random() < 0.2 else "stop"
        (folder / "samples-main.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        lengths.append([line["answer_tokens"] + line["thinking_tokens"] for line in lines])
        cut.append([line["finish"] == "length" for line in lines])
    table = pivot(results, metric="trace_length")
    row = table.frame[table.frame.method == "fastv"].iloc[0]
    both = [i for i in range(100) if not cut[0][i] and not cut[1][i]]
    right = [i for i in both if FULL[i] and LESS[i]]
    for name, pairs in (("finished", both), ("right", right)):
        logs = [np.log(lengths[1][i] / lengths[0][i]) for i in pairs]
        assert row[f"{name}_pairs"] == len(pairs)
        assert row[f"{name}_ratio"] == pytest.approx(np.exp(np.mean(logs)))
        assert row[f"{name}_ratio_low"] < row[f"{name}_ratio"] < row[f"{name}_ratio_high"]
    text = next(found[-1] for found in rows(table.to_markdown()) if found[1] == "fastv")
    share = sum(cut[1]) / 100
    assert text.startswith(f"{np.median(lengths[1]):g} ({100 * share:.1f} % cut, ×{row.finished_ratio:.2f} [")
    assert f"right ×{row.right_ratio:.2f} [" in text


def test_two_protocols_are_refused_until_one_is_chosen(grid: Path, cell: Write) -> None:
    other = cell("fastv", FULL, benchmark="mathverse", keep=1 / 2)
    change(other, protocol={"name": "dstp", "version": 1, "assumed": [], "changed": []})
    with pytest.raises(TablesError) as error:
        pivot(grid)
    assert str(error.value) == (
        "column mathverse would pool protocols dstp/1 and vtp/1: add protocol=dstp/1 or protocol=vtp/1"
    )
    for name in ("vtp", "vtp/1"):
        assert set(pivot(grid, protocol=name).frame.protocol) == {"vtp/1"}
    assert set(pivot(grid, cols="protocol").frame.column) == {"vtp/1", "dstp/1"}
    with pytest.raises(TablesError, match="no run under protocol vp; there are: dstp/1, vtp/1"):
        pivot(grid, protocol="vp")


def test_a_protocol_per_column_is_said(results: Path, cell: Write) -> None:
    cell("none", FULL, benchmark="gqa")
    change(
        cell("none", FULL, benchmark="mathverse"),
        protocol={"name": "dstp", "version": 1, "assumed": [], "changed": []},
    )
    assert "Protocols: dstp/1 for mathverse; vtp/1 for gqa." in pivot(results).notes


def test_two_sizes_are_refused(grid: Path, cell: Write) -> None:
    cell("divprune", FULL[:40], benchmark="gqa", keep=1 / 3)
    with pytest.raises(TablesError) as error:
        pivot(grid)
    assert str(error.value) == (
        "column gqa would pool N 100 (none full, fastv+dstp 0.333, fastv 0.333 and 5 more) and N 40 (divprune 0.333): "
        "run the rest, or choose others (benchmark=, model=)"
    )
    with pytest.raises(TablesError, match="row gqa would pool N 100"):
        pivot(grid, rows="benchmark", cols="method")
    assert set(pivot(grid, benchmarks=["mathverse"]).frame.n) == {100}


def test_a_cell_with_nothing_finished_harms_no_one(grid: Path, cell: Write) -> None:
    cell("divprune", [None] * 3, benchmark="gqa", keep=1 / 3)
    table = pivot(grid)
    assert next(row for row in rows(table.to_markdown()) if row[1] == "divprune")[4:] == ["-", "-"]
    assert "3 samples failed and count nowhere." in table.notes


def test_two_versions_of_the_data_are_refused(grid: Path, cell: Write) -> None:
    cell("divprune", FULL, benchmark="gqa", keep=1 / 3, seed=1)
    with pytest.raises(TablesError, match=r"column gqa would pool seed=0 and seed=1: keep the runs of one"):
        pivot(grid)


def test_unjudged_cells_are_refused_where_accuracy_counts(grid: Path) -> None:
    scores = next(grid.glob("runs/*/gqa/fastv@0.333/*/scores/*.jsonl"))
    lines = scores.read_text().splitlines(keepends=True)
    scores.write_text("".join(lines[:-7]))
    for metric in ("accuracy", "cost_per_correct"):
        with pytest.raises(TablesError, match=r"column gqa: 7 samples of .*fastv@0.333.* wait for a judge"):
            pivot(grid, metric=metric)
    assert pivot(grid, metric="seconds").frame.value.notna().all()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"rows": "x"}, "rows must be one of model, benchmark, protocol, decoding, method, addon, keep; got x"),
        ({"cols": "method"}, "cols must be one of model, benchmark, protocol, decoding, addon, keep; got method"),
        ({"metric": "f1"}, "metric must be one of accuracy, headline"),
        ({"budget": "tokens"}, "budget must be one of ret_nominal, ret_prefill, ret_decode, kv, flops; got tokens"),
        ({"against": "nobody"}, "against must be full, base or one of"),
    ],
)  # fmt: skip
def test_unknown_names_are_refused(grid: Path, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(TablesError, match=re.escape(message)):
        pivot(grid, **asked)


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_shows_the_columns_it_names(grid: Path, metric: str) -> None:
    table = pivot(grid, metric=metric, benchmarks=["gqa"])
    frame = table.frame
    flops = frame.flops_vision + frame.flops_prefill + frame.flops_decode + frame.flops_overhead
    expected = {"headline": frame.metric_value, "flops": flops, "cost_per_correct": flops / frame.accuracy}
    pd.testing.assert_series_equal(
        frame.value, expected.get(metric, frame[metric]), check_names=False, check_dtype=False
    )
    assert any(note.startswith(f"{len(frame)} cells. {metric}: ") for note in table.notes)
    assert max(map(len, printed(table, 80).splitlines())) <= 80


AXES = ["benchmark method", "method keep", "keep benchmark", "method addon", "model benchmark", "keep method"]


@pytest.mark.parametrize(("first", "second"), [axes.split() for axes in AXES])
def test_every_cell_stands_in_one_place(grid: Path, first: str, second: str) -> None:
    table = pivot(grid, rows=first, cols=second)
    places = ["section", "row", "row_budget", "column", "column_budget"]
    assert not table.frame.duplicated(places).any() and len(table.frame) == 15
    values = [text for row in rows(table.to_markdown()) for text in row if re.match(r"\d+\.\d( \(|$)", text)]
    assert len([text for text in values if "(" in text]) == table.frame.p.notna().sum()


def test_namesakes_are_told_apart(results: Path, cell: Write) -> None:
    cell("fastv", FULL, keep=0.5, layer=2, hash8="aaaaaaaa")
    cell("fastv", FULL, keep=0.5, layer=3, hash8="bbbbbbbb", benchmark="gqa")
    cell("stride", FULL, keep=0.5, hash8="cccccccc")
    cell("stride", FULL, keep=0.5, hash8="dddddddd")
    found = set(pivot(results).frame.row)
    assert found == {"fastv layer=2", "fastv layer=3", "stride #cccccccc", "stride #dddddddd"}


@pytest.mark.parametrize("width", [80, 120, 200])
def test_terminal_fits(grid: Path, width: int) -> None:
    text = printed(pivot(grid, budget="ret_decode", command="vtpbench table rows=method"), width)
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    assert ("±" in text.partition("15 cells")[0]) == (width < 120)
    assert "$ vtpbench table rows=method" in text


def test_markdown_is_a_table_that_github_reads(grid: Path) -> None:
    text = pivot(grid).to_markdown()
    assert text.startswith("# Accuracy: method by benchmark\n")
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(tables) == 2
    for table in tables:
        assert len({len(line) for line in table.splitlines()}) == 1
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_latex_is_balanced_and_escaped(grid: Path) -> None:
    text = pivot(grid, budget="ret_decode").to_latex()
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert body.count(r"\begin{") == body.count(r"\end{") and body.count("{") == body.count("}")
    assert body.count("$") % 2 == 0 and body.isascii() and r") $\downarrow$" in body
    assert not re.search(r"(?<!\\)[%#]|(?<!\\)_", body)
    for spec, inside in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end", body, flags=re.DOTALL):
        lines = [line for line in inside.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {len(spec) - 1}
        assert inside.count(r"\midrule") == 1 + 3  # below the head, and between the full model and three bands


def test_csv_holds_the_frame_in_full_precision(grid: Path) -> None:
    table = pivot(grid)
    frame = pd.read_csv(io.StringIO(table.to_csv()))
    assert list(frame.columns) == list(table.frame.columns)
    numbers = table.frame.select_dtypes("number").columns
    pd.testing.assert_frame_equal(frame[numbers], table.frame[numbers], check_dtype=False, check_exact=True)
