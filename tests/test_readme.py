"""What the README shows works as it stands."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

import harness
from harness import cli_plan
from harness.benchmarks.glyph_tasks import Glyphs
from harness.cli import _parse, main
from harness.cli_efficiency import grouped
from harness.cli_tables import ANALYZE_KEYS
from harness.report.analysis import KINDS
from harness.runs.cells import parse_config
from harness.runs.components import find
from harness.runs.compose import Composed, Configs, compose_all, parse, split
from harness.runs.config import RunConfig
from harness.runs.errors import Skip
from tests.test_imports import ALLOWED

ROOT = Path(__file__).parents[1]
PAGES = {page.name: page.read_text(encoding="utf-8") for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}


def blocks(kind: str) -> list[tuple[str, str]]:
    """Blocks of code of all pages, with a name for each."""
    found = [(name, block) for name, page in PAGES.items() for block in re.findall(rf"```{kind}\n(.*?)```", page, re.S)]
    return [(f"{name} {i}", block) for i, (name, block) in enumerate(found)]


PYTHON, BLOCKS = blocks("python"), [block for _, block in blocks("python")]
COMMANDS = list(dict.fromkeys(
    command
    for _, block in blocks("bash")
    for line in block.splitlines()
    for command in re.findall(r"(?:^|&& |slurm_ray.sh )(vtpbench [^#&]*[^#& ])", line)
))  # fmt: skip
GRIDS = {
    "run": (), "plan": cli_plan.KEYS, "check": (), "fit": ("out",), "conform": (), "efficiency": ("to",),
}  # fmt: skip
"""Verbs whose keys are those of a configuration, and the keys that are not."""


def test_notebook_block(capsys: pytest.CaptureFixture[str]) -> None:
    """The block runs with a picture at hand and answers."""
    item = Glyphs(task="lookup", by="position").items()[0]
    names: dict[str, object] = {"image": next(p for p in item.content if isinstance(p, Image.Image))}
    exec(next(b for b in BLOCKS if "harness.load" in b), names)
    trace = names["trace"]
    assert trace.text and trace.ret_prefill < 1 and trace.flops["prefill"] > 0  # type: ignore[attr-defined]
    assert harness.__version__


def test_own_method_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class outside of this repository runs through the command line under its own name."""
    (tmp_path / "mymodule.py").write_text(next(b for b in BLOCKS if "LargestNorm" in b))
    monkeypatch.syspath_prepend(str(tmp_path))
    grid = ["benchmark=glyph_walk", "limit=4", f"paths.results={tmp_path}", "keep=1/3"]
    assert main(["run", "pruner._target_=mymodule.LargestNorm", *grid]) == 0
    (summary,) = tmp_path.glob("runs/tiny_qwen3_vl/glyph_walk/LargestNorm@0.333*/*/summary.json")
    found = json.loads(summary.read_text())
    assert found["n"] == 4 and found["ret_prefill"] == pytest.approx(21 / 64)


def test_a_class_beside_the_user_is_found_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed program does not look into the current folder by itself; nothing there hides what is installed."""
    (tmp_path / "beside_me.py").write_text(
        "from dataclasses import dataclass\n\n\n@dataclass\nclass Mine:\n    x: int = 0\n"
    )
    (tmp_path / "yaml.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    assert find("beside_me.Mine", "pruner").__name__ == "Mine"
    assert sys.path[-1] == "" and importlib.util.find_spec("yaml").origin != str(tmp_path / "yaml.py")  # type: ignore


@pytest.mark.parametrize("block", [block for _, block in PYTHON], ids=[name for name, _ in PYTHON])
def test_python_blocks_run(block: str) -> None:
    """Every block of every page, alone, with a picture at hand."""
    exec(block, {"image": Image.new("RGB", (64, 64)), "__name__": "shown"})


@pytest.mark.parametrize("line", COMMANDS)
def test_commands(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Grids compose; what only reads accepts its keys, and in an empty folder misses its files and nothing else."""
    arguments = _parse(shlex.split(line, comments=True)[1:])
    verb, overrides = str(arguments.verb.__name__), list(arguments.overrides)
    if verb in GRIDS:
        keys = {key: text for key, text in parse(overrides).items() if key not in GRIDS[verb]}
        composed = compose_all([f"{key}={text}" for key, text in keys.items()], Configs.find())
        if verb == "efficiency":
            assert grouped(composed)
        else:
            assert list(configurations(composed))
    elif verb == "analyze":
        names, keys = split(overrides)
        assert {*names} <= {*KINDS} and keys.keys() <= ANALYZE_KEYS.keys()
    else:
        monkeypatch.chdir(tmp_path)
        code, error = main(shlex.split(line, comments=True)[1:]), capsys.readouterr().err
        assert code == 0 or re.search(r"no runs under|is not the folder of a cell|No such file|no cell", error), error


def configurations(composed: Iterable[Composed]) -> Iterator[RunConfig]:
    """Those of a grid; experiments leave out what is not here."""
    for one in composed:
        with suppress(Skip):
            yield parse_config(one)


def test_there_are_commands_and_blocks() -> None:
    verbs = {line.split()[1] for line in COMMANDS}
    out = subprocess.run([sys.executable, "-m", "harness", "--help"], capture_output=True, text=True, check=True).stdout
    shown = set(re.findall(r"^    (\w+)(?: |$)", out, re.MULTILINE))
    assert len(PYTHON) >= 2 and verbs <= shown
    assert not shown - verbs, "a verb that no page shows"


def test_leaderboard_is_the_committed_one() -> None:
    lines = [
        line for line in PAGES["README.md"].splitlines() if (line.startswith("|") and "[" in line) or "| -" in line
    ]
    shown = [line for line in lines if "](" not in line]
    measured = (ROOT / "results/leaderboard/quickstart.md").read_text(encoding="utf-8").splitlines()
    assert len(shown) == 10 and set(shown) <= set(measured)


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    folder = ROOT if name == "README.md" else ROOT / "docs"
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", PAGES[name]):
        assert target.startswith("https://") or (folder / target).exists(), target


def test_picture_of_the_imports() -> None:
    """Each arrow is one that the test of imports allows."""
    names = {"pruners": "pruners"} | {package.rpartition(".")[2]: package for package in ALLOWED}
    arrows = re.findall(r"^  (\w+)(?:\[[^\]]*\])? --> (\w+)", PAGES["architecture.md"], re.MULTILINE)
    assert len(arrows) > 8
    for source, target in arrows:
        assert source == "cli" or names[target] in ALLOWED[names[source]], (source, target)
