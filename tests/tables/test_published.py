"""The published numbers pass every check, and a copy with one fault in it fails the check that looks for it."""

from __future__ import annotations

import filecmp
import os
import re
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
Edit = Callable[[pd.DataFrame], pd.DataFrame]


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
    return lambda frame: frame.mask(frame.row_id == row, frame.assign(**fields))


def first(**fields: str) -> Edit:
    """An edit of the first row of a small table."""
    return lambda frame: pd.concat([frame.head(1).assign(**fields), frame.iloc[1:]])


def drop(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.iloc[1:]


def again(frame: pd.DataFrame) -> pd.DataFrame:
    """The first row once more, under a new id if it has one."""
    copy = frame.head(1)
    return pd.concat([frame, copy.assign(row_id="p9999") if "row_id" in frame else copy])


FAULTS: list[tuple[str, str, Edit, str]] = [
    ("headers", "metrics", lambda frame: frame.drop(columns="note"), "metrics: columns"),
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
    (
        "conflicts",
        "results",
        put("p0001", provenance="rerun", value="1"),
        "'mathverse', 'one_version', '', 'acc', '') is missing",
    ),
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
    (tmp_path / f"{table}.csv").unlink()
    edit(frame).to_csv(tmp_path / f"{table}.csv", index=False)
    problems = CHECKS[check](tmp_path)
    assert any(found in problem for problem in problems), problems[:5]


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(TablesError, match=r"results\.csv: No such file or directory; install again"):
        Published.read(tmp_path)


@pytest.mark.parametrize(
    ("table", "text", "message"),
    [
        ("results", "", r"results\.csv: No columns to parse"),
        ("results", "version https://git-lfs.github.com/spec/v1\nsize 3\n", r"results\.csv is no table of results"),
        ("papers", "paper_id,title\n", r"papers\.csv is no table of papers by paper_id"),
        ("granularity", "paper_id,chance\ndstp,none\n", "is damaged: Unable to parse string 'none'"),
    ],
)
def test_a_damaged_table_is_one_line(table: str, text: str, message: str, tmp_path: Path) -> None:
    for file in SHIPPED.iterdir():
        os.symlink(file, tmp_path / file.name)
    (tmp_path / f"{table}.csv").unlink()
    (tmp_path / f"{table}.csv").write_text(text)
    with pytest.raises(TablesError, match=message) as caught:
        published_table(folder=tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "kind", "ids"),
    [
        ("FastV", "method", ["fastv", "", ""]),
        ("fastv+dstp", "method", ["fastv", "dstp", ""]),
        ("FiCoCo-V+DSTP", "method", ["ficoco_v", "dstp", ""]),
        ("DSTP", "method", ["", "dstp", ""]),
        ("PruMerge+", "method", ["prumerge_plus", "", ""]),
        ("visionzip (fine-tuned)", "method", ["visionzip", "", "fine_tuned"]),
        ("LLaVA-1.6-7B", "model", ["llava_next_7b"]),
        ("Qwen/Qwen3-VL-4B-Instruct", "model", ["qwen3_vl_4b"]),
        ("SQA", "benchmark", ["scienceqa_img"]),
        ("SEED-I", "benchmark", ["seed_bench_image"]),
    ],
)
def test_printed_names_lead_to_ids(published: Published, name: str, kind: Any, ids: list[str]) -> None:
    assert list(published.resolve(name, kind).values()) == ids


def test_every_name_of_the_tables_is_known(published: Published) -> None:
    for alias in published.method_aliases.to_dict("records"):
        ids = {key: alias[key] for key in ("method_id", "addon_id", "variant")}
        assert published.resolve(alias["alias"].upper(), "method") == ids
    for method in published.methods.method_id:
        assert method in published.resolve(method, "method").values()


def test_an_unknown_name_lists_near_ones(published: Published) -> None:
    with pytest.raises(TablesError, match="near: visionzip"):
        published.resolve("VisonZip", "method")
    with pytest.raises(TablesError, match="no published model is called '-'; near: none"):
        published.resolve("-", "model")
    with pytest.raises(TablesError, match="no published row 'p5000'"):
        published.row("p5000")


def test_a_range_counts_values_once_and_copies_apart(published: Published) -> None:
    row = published.results.query("model_id == 'llava_1_5_7b' and method_id == 'fastv' and benchmark_id == 'gqa'")
    same = published.same_setting(row[row.budget_value == 128].iloc[0])
    found = spread(same)
    assert found is not None  # the values below are those of conflicts.csv
    assert found.values == (49.6, 53.0, 54.1, 55.3)
    assert found.papers[49.6] == ("sparsevlm", "trevs")
    assert found.copies == ("diffprune", "sieve", "v2drop")
    assert str(found) == "49.60 - 55.30 (median 53.55, 5 papers, 3 copies)"
    assert spread(same.assign(status="quarantined")) is None
    alone = spread(same[same.paper_id == "diffprune"])
    assert alone is not None and alone.papers == {49.6: ("v2drop (as copied)",)}
    assert str(alone) == "49.6 (1 paper, 1 copy)"


def test_no_range_mixes_what_must_not_be_compared(published: Published) -> None:
    for _, same in published.rows.groupby("setting"):
        several = same.paper_id.nunique() > 1
        for key in ("unit", "metric_id", "variant", "convention", "hardware", "workload", "rule", "budget_kind"):
            assert same[key].nunique(dropna=False) == 1, (key, list(same.row_id))
        assert len({*same.trained} - {""}) < 2, list(same.row_id)
        if several and same.table.iloc[0] == "efficiency":
            assert same.convention.iloc[0], list(same.row_id)


@pytest.mark.parametrize(
    "names", [(), ("fastv", "llava_1_5_7b"), ("LLaVA-NeXT-7B",), ("TwigVLM++", None), ("divprune",)]
)
@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit_the_terminal_and_have_three_other_forms(names: tuple[str | None, ...], width: int) -> None:
    table = published_table(*names)
    text = printed(table, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text  # nothing is cut off
    rows = [line for line in table.to_markdown().splitlines() if line.startswith("| ")]
    assert len(rows) == sum(len(block.cells) + 2 for block in table.blocks)
    assert len(pd.read_csv(StringIO(table.to_csv()))) == len(table.frame)
    assert table.to_latex().count(r"\begin{longtable}") == len(table.blocks)


def printed(table: PublishedTable, width: int) -> str:
    console = Console(file=StringIO(), width=width)
    table.print(console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_a_method_and_a_model_in_any_order() -> None:
    one, other = published_table("fastv", "qwen3_vl_4b").frame, published_table("Qwen3-VL-4B-Instruct", "FastV").frame
    pd.testing.assert_frame_equal(one, other)
    with pytest.raises(TablesError, match="both a method"):
        published_table("fastv", "visionzip")
    with pytest.raises(TablesError, match="near: methods fastv"):
        published_table("fastvv")
    with pytest.raises(TablesError, match="no paper"):
        published_table("vimod", "llava_1_5_7b")


def test_every_row_is_in_one_line_and_the_marks_are_there(published: Published) -> None:
    table = published_table("llava_1_5_7b")
    shown = " ".join(table.frame.rows).split()
    assert sorted(shown) == sorted(published.rows.row_id[published.rows.model_id == "llava_1_5_7b"])
    trained = table.frame[table.frame.variant == "fine_tuned"]
    assert len(trained) and set(trained.trained) == {"true"} and set(trained.label) == {"visionzip (fine_tuned)"}
    text = printed(published_table("TwigVLM++"), 120)
    refused = text[text.index("not compared") :]
    assert re.search(r"p1152 .* 94\.4: twigvlm_pp .*model not stated", refused)
