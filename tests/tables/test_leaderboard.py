"""The leaderboard's rows and its four renderings."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from scipy import stats as scipy_stats

from harness.tables import Leaderboard, leaderboard

Write = Callable[..., Path]
FULL = [1.0] * 90 + [0.0] * 10
WORSE = [0.0] * 30 + [1.0] * 60 + [0.0] * 10


@pytest.fixture
def board(results: Path, cell: Write) -> Leaderboard:
    for benchmark in ("glyph_walk", "glyph_lookup"):
        cell("none", FULL, benchmark=benchmark)
        cell("blind", [0.0] * 100, benchmark=benchmark)
        for keep in (1 / 3, 1 / 9):
            cell("random", WORSE, benchmark=benchmark, keep=keep)
            cell("fastv", FULL, benchmark=benchmark, keep=keep)
        cell("fastv", FULL[:40] + [None] * 60, benchmark=benchmark, keep=1 / 3, addon="dstp")
    cell("stride", [None] * 3, keep=1 / 3)
    return leaderboard(results, command="vtpbench table paths.results=results")


def printed(board: Leaderboard, width: int) -> str:
    out = io.StringIO()
    board.print(Console(file=out, width=width))
    return out.getvalue()


def find(board: Leaderboard, **wanted: object) -> pd.Series:
    frame = board.frame
    for key, value in wanted.items():
        frame = frame[frame[key] == value]
    assert len(frame) == 1
    return frame.iloc[0]


def test_difference_to_the_full_model(board: Leaderboard) -> None:
    row = find(board, benchmark="glyph_walk", method="random", keep=1 / 3)
    assert (row.accuracy, row.difference, row.pairs, row.verdict) == (0.6, pytest.approx(-0.3), 100, "worse")
    assert row.p == pytest.approx(scipy_stats.binomtest(0, 30).pvalue)
    assert row.p_holm > row.p
    assert row.reference.split("/")[2] == "none"
    same = find(board, benchmark="glyph_walk", label="fastv", keep=1 / 3)
    assert (same.difference, same.p_holm, same.verdict) == (0.0, 1.0, "inconclusive")
    assert same.difference_low < 0 < same.difference_high
    assert board.frame[board.frame.method == "none"].p.isna().all()


def test_pairs_are_the_common_finished_samples(board: Leaderboard) -> None:
    row = find(board, benchmark="glyph_walk", addon="dstp")
    assert (row.n, row.failed, row.pairs, row.accuracy) == (40, 60, 40, 1.0)
    assert any("N differs" in note for note in board.notes)


def test_fewer_pairs_than_samples_is_said(results: Path, cell: Write) -> None:
    cell("none", FULL)
    cell("fastv", FULL, keep=0.5, first=20)
    board = leaderboard(results)
    assert board.frame.pairs.max() == 80
    assert " (80)" in board.to_markdown() and any(note.startswith("(n)") for note in board.notes)


def test_only_the_same_data_is_paired(results: Path, cell: Write) -> None:
    cell("none", FULL, seed=0, hash8="aaaaaaaa")
    cell("fastv", FULL, seed=1, keep=0.5)
    board = leaderboard(results)
    assert board.frame.p.isna().all() and board.frame.title.nunique() == 2
    assert sorted(title.rpartition(" · ")[2] for title in board.frame.title) == ["seed=0", "seed=1"]
    assert not any("Holm" in note for note in board.notes)


def test_against_base_and_against_a_method(results: Path, board: Leaderboard) -> None:
    base = leaderboard(results, against="base").frame
    assert set(base[base.p.notna()].addon) == {"dstp"}
    assert all("/fastv@0.333/" in name for name in base.reference.dropna())
    other = leaderboard(results, against="random").frame
    assert set(other[other.p.notna()].label) == {"fastv", "fastv+dstp"}
    assert (other[other.label == "fastv"].verdict == "better").all()


def test_namesakes_are_told_apart(results: Path, cell: Write) -> None:
    cell("fastv", FULL, keep=0.5, layer=2, hash8="aaaaaaaa")
    cell("fastv", FULL, keep=0.5, layer=3, hash8="bbbbbbbb")
    cell("stride", FULL, keep=0.5, hash8="cccccccc")
    cell("stride", FULL, keep=0.5, hash8="dddddddd")
    assert set(leaderboard(results).frame.label) == {
        "fastv layer=2",
        "fastv layer=3",
        "stride #cccccccc",
        "stride #dddddddd",
    }


def test_order_is_full_then_budget_then_accuracy(board: Leaderboard) -> None:
    rows = board.frame[board.frame.benchmark == "glyph_walk"]
    assert list(rows.label) == ["none", "fastv+dstp", "fastv", "random", "stride", "fastv", "random", "blind"]


@pytest.mark.parametrize("width", [80, 100, 120, 250])
def test_terminal_fits_and_keeps_the_comparison_together(board: Leaderboard, width: int) -> None:
    text = printed(board, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    head = next(line for line in text.splitlines() if "verdict" in line)
    assert "keep" in head and "N" in head.split() and "Holm" in head
    assert text.count("(self-test)") == 2
    assert board.command is not None and board.command in text


def test_a_wide_terminal_shows_one_block(board: Leaderboard) -> None:
    assert printed(board, 250).count("method  ") == 2
    assert printed(board, 120).count("method  ") > 2


def test_markdown_is_a_table_that_github_reads(board: Leaderboard) -> None:
    text = board.to_markdown()
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(tables) == 4
    for table in tables:
        assert len({len(line) for line in table.splitlines()}) == 1
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert f"```sh\n{board.command}\n```" in text
    assert "| stride" in text and "random †" in text and "Holm-adjusted over 12 compared cells" in text


def test_csv_holds_everything_in_full_precision(board: Leaderboard) -> None:
    frame = pd.read_csv(io.StringIO(board.to_csv()))
    assert list(frame.columns) == list(board.frame.columns)
    numbers = board.frame.select_dtypes("number").columns
    pd.testing.assert_frame_equal(frame[numbers], board.frame[numbers], check_dtype=False, check_exact=True)


def test_latex_is_balanced_and_escaped(board: Leaderboard) -> None:
    text = board.to_latex()
    assert text.count(r"\begin{") == text.count(r"\end{") and text.count(r"\toprule") == 4
    assert r"tiny\_qwen3\_vl" in text and "& $-$30.0 [$-$" in text
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert not re.search(r"(?<!\\)[%#]|(?<!\\)_", body)
    assert body.count("{") == body.count("}")
    for tabular in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end", text, flags=re.DOTALL):
        assert {line.count("&") for line in tabular[1].splitlines() if line.endswith(r"\\")} == {len(tabular[0]) - 1}


@pytest.mark.parametrize(("scale", "unit"), [(1, "MFLOPs"), (1000, "GFLOPs"), (10**5, "TFLOPs")])
def test_units_follow_the_size_of_the_model(results: Path, cell: Write, scale: int, unit: str) -> None:
    cell("none", FULL, scale=scale)
    text = leaderboard(results).to_markdown()
    assert f"{unit} prefill" in text


def test_clusters_choose_the_test_and_equivalence_is_found(results: Path, cell: Write) -> None:
    many = FULL * 8
    cell("none", many, clusters=4)
    cell("fastv", many, keep=0.5, clusters=4)
    row = find(leaderboard(results), method="fastv")
    assert (row.rule, row.test) == ("cluster bootstrap", "sign-flip permutation")
    assert leaderboard(results, margin=3).frame.verdict.dropna().tolist() == ["equivalent"]


def test_the_same_table_every_time(results: Path, board: Leaderboard) -> None:
    assert leaderboard(results, command=board.command).to_csv() == board.to_csv()
