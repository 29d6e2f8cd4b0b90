"""`vtpbench analyze`: files, the page, wrong input; and the committed figures' page."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli import main
from harness.report.analysis import KINDS
from harness.report.analysis.analyze import page

COMMITTED = Path(__file__).parents[3] / "results" / "analysis"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    asked = ["model=tiny_internvl", "pruner=none", "benchmark=glyph_lookup,glyph_walk", "limit=6", "record=attention"]
    assert main(["run", *asked, f"paths.results={folder}"]) == 0
    return folder


def test_stored_runs(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "rvis", f"paths.results={runs}", f"out={tmp_path}"]) == 0
    assert "tiny_internvl: longer replies have more events" in capsys.readouterr().out
    assert {file.name for file in tmp_path.iterdir()} == {"README.md", "rvis.csv", "rvis.png", "rvis.svg"}
    assert (tmp_path / "rvis.csv").read_text().count("\n") == 1 + 12 * 4  # replies x layers
    first = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert main(["analyze", "rvis", f"paths.results={runs}", f"out={tmp_path}"]) == 0
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == first


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["rivs"], "unknown analysis 'rivs'; known: rvis"),
        (["rvis", "layer=9"], "layer=9 is not one of 4 layers"),
        (["rvis", "layer=x"], "layer must be a whole number, got 'x'"),
        (["rvis", "limit=0"], "limit must be at least 1, got 0"),
        (["rvis", "model=nobody"], "no run with model nobody"),
        (["rvis", "colour=red"], "unknown key colour"),
        (["rvis", "out=/proc/x"], "cannot write /proc/x"),
    ],
)
def test_wrong_input(runs: Path, tmp_path: Path, asked: list[str], said: str, capsys) -> None:
    assert main(["analyze", f"paths.results={runs}", f"out={tmp_path}", *asked]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_runs_without_attention(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["model=tiny_internvl", "pruner=none", "benchmark=glyph_lookup", "limit=2", f"paths.results={tmp_path}"]
    assert main(["run", *asked]) == 0
    assert main(["analyze", "rvis", f"paths.results={tmp_path}", f"out={tmp_path}"]) == 2
    assert "no run with method=none has record=attention" in capsys.readouterr().err
    assert main(["run", *asked, "record=attention"]) == 0  # done again, with the same content
    assert main(["analyze", "rvis", f"paths.results={tmp_path}", f"out={tmp_path}"]) == 0


def test_committed_page_is_what_the_csv_files_say() -> None:
    assert (COMMITTED / "README.md").read_text() == page(COMMITTED)


@pytest.mark.parametrize("name", KINDS)
def test_committed_files(name: str) -> None:
    """Every kind has its figure, and its section quotes a number from the CSV."""
    for ending in ("csv", "png", "svg"):
        assert (COMMITTED / f"{name}.{ending}").stat().st_size > 1000
    section = page(COMMITTED).split(f"## {name}\n")[1].split("\n## ")[0]
    assert any(character.isdigit() for row in section.splitlines() if row.startswith("| ") for character in row)
