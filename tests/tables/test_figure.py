"""`vtpbench figure`: what is drawn is what tables print, and fronts are what nothing beats."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.cli import main
from harness.report.fronts import AXES, draw
from harness.tables import leaderboard
from harness.tables.columns import prefix
from tests.tables.conftest import Write

METHODS = {"fastv": 0.6, "divprune": 0.5, "random": 0.3, "oracle": 0.95}


@pytest.fixture
def board(cell: Write, results: Path) -> pd.DataFrame:
    """Two benchmarks, four methods at three budgets, an add-on."""
    rng = random.Random(0)
    for benchmark in ("glyph_walk", "glyph_lookup"):
        cell("none", [float(rng.random() < 0.9) for _ in range(40)], benchmark=benchmark)
        for method, right in METHODS.items():
            for keep in (1 / 9, 1 / 3, 2 / 3):
                credits = [float(rng.random() < right + keep / 5) for _ in range(40)]
                cell(method, credits, keep=keep, benchmark=benchmark)
        cell("fastv", [1.0] * 40, keep=1 / 3, addon="dstp", benchmark=benchmark)
    return leaderboard(results).frame


def lines(panel: Axes) -> dict[str, Any]:
    """Drawn lines by the label of their method."""
    handles, labels = panel.get_legend_handles_labels()
    return {label: getattr(handle, "lines", [handle])[0] for handle, label in zip(handles, labels, strict=True)}


def panels(figure: Figure) -> list[Axes]:
    return figure.axes


def test_points_are_the_table_s(board: pd.DataFrame, results: Path) -> None:
    names = list(AXES)
    figure = draw(board, names, results)
    assert len(panels(figure)) == 2 * len(names)
    for i, panel in enumerate(panels(figure)):
        own = board[board.title == board.title.unique()[i // len(names)]]
        name, drawn = names[i % len(names)], lines(panel)
        values = AXES[name].values(own)
        unit = prefix(values.max())[1] if name == "flops" else 1.0
        assert {"fastv", "divprune", "random", "oracle", "fastv+dstp", "full model"} == {*drawn} - {"front"}
        for label, line in drawn.items():
            rows = own[own.label == ("none" if label == "full model" else label)].sort_values("keep")
            if label != "front":
                assert list(line.get_xdata()) == pytest.approx(list(values[rows.index] / unit))
                assert list(line.get_ydata()) == pytest.approx(list(100 * rows.accuracy))


def test_intervals_are_the_table_s(board: pd.DataFrame, results: Path) -> None:
    (panel,) = panels(draw(board[board.benchmark == "glyph_walk"], ["ret_prefill"], results))
    (bars,) = [c for c in panel.containers if c.get_label() == "fastv"]
    rows = board[(board.benchmark == "glyph_walk") & (board.label == "fastv")].sort_values("keep")
    segments = bars.lines[2][0].get_segments()
    assert [tuple(s[:, 1]) for s in segments] == [
        pytest.approx((100 * row.accuracy_low, 100 * row.accuracy_high)) for row in rows.itertuples()
    ]


@pytest.mark.parametrize("name", ["flops", "seconds"])
def test_fronts_by_brute_force(name: str, board: pd.DataFrame, results: Path) -> None:
    """Points that no other one beats; ceilings are on none."""
    for panel, title in zip(panels(draw(board, [name], results)), board.title.unique(), strict=True):
        own = board[(board.title == title) & (board.method != "oracle")]
        unit = prefix(AXES[name].values(board[board.title == title]).max())[1] if name == "flops" else 1.0
        points = list(zip(AXES[name].values(own) / unit, 100 * own.accuracy, strict=True))
        best = [(x, y) for x, y in points if not any(a <= x and b >= y and (a < x or b > y) for a, b in points)]
        front = lines(panel)["front"]
        found = zip(front.get_xdata(), front.get_ydata(), strict=True)
        assert sorted(found) == [pytest.approx(point) for point in sorted(best)]


def test_shares_have_no_front_nor_have_times_of_several_machines(board: pd.DataFrame, results: Path) -> None:
    for i, cell in enumerate(board.cell):
        machine = f'{{"a": {{"devices": "cpu", "platform": "box {i % 2}"}}}}'
        (results / "runs" / cell / "environment.json").write_text(machine)
    found = [lines(panel) for panel in panels(draw(board, ["ret_prefill", "seconds", "flops"], results))]
    assert ["front" in drawn for drawn in found] == [False, False, True] * 2


def test_lines_are_told_apart_without_colour(board: pd.DataFrame, results: Path) -> None:
    drawn = lines(panels(draw(board, ["flops"], results))[0])
    markers = [line.get_marker() for label, line in drawn.items() if label != "front"]
    assert len(markers) == len({*markers})


def test_files(cell: Write, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By their ending, equal for equal runs; letters of a PDF are outlines of type 42."""
    cell("none", [1.0, 0.0])
    cell("fastv", [1.0, 0.0], keep=1 / 3)
    for ending, start in ((".pdf", b"%PDF"), (".png", b"\x89PNG"), (".svg", b"<?xml")):
        made = [tmp_path / f"{i}{ending}" for i in range(2)]
        for file in made:
            assert main(["figure", f"paths.results={results}", f"to={file}"]) == 0
            assert capsys.readouterr().out == f"{file}\n"
        content = made[0].read_bytes()
        assert content == made[1].read_bytes() and content.startswith(start)
    assert b"/FontFile2" in (tmp_path / "0.pdf").read_bytes() and b"/Type3" not in (tmp_path / "0.pdf").read_bytes()


def test_methods_to_keep(
    board: pd.DataFrame, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.svg"
    assert main(["figure", f"paths.results={results}", f"to={file}", "pruner=fast*", "benchmark=glyph_walk"]) == 0
    text = file.read_text()
    assert all(f"<!-- {name} -->" in text for name in ("fastv", "fastv+dstp", "full model"))
    assert "<!-- divprune -->" not in text and "glyph_lookup" not in text


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["to=a.gif"], "to= must end in .pdf, .png, .svg, got a.gif"), (["x=dollars"], "unknown axis dollars; known: "),
        (["x="], "x= is empty"), (["pruner=nobody"], "no run of nobody; there are: "),
        (["model=nobody"], "no run with model nobody"), (["to=/proc/a.pdf"], "cannot write /proc/a.pdf"),
        (["colour=red"], "unknown key colour"),
    ],
)  # fmt: skip
def test_bad_input(asked: list[str], said: str, cell: Write, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell("none", [1.0, 0.0])
    assert main(["figure", f"paths.results={results}", *asked]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_nothing_scored(cell: Write, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell("none", [None, None])
    assert main(["figure", f"paths.results={results}", f"to={tmp_path / 'a.pdf'}"]) == 2
    assert "no cell has an accuracy yet" in capsys.readouterr().err
