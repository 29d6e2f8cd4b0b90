"""What the README shows works as it stands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import harness
from harness.benchmarks.glyph_tasks import Glyphs
from harness.cli import main
from tests.test_imports import ALLOWED

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [block for page in PAGES for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)]


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


def test_commands_exist() -> None:
    """Every `vtpbench` line of the README names a verb that exists."""
    verbs = set(re.findall(r"^vtpbench (\w+)", README, re.MULTILINE))
    out = subprocess.run([sys.executable, "-m", "harness", "--help"], capture_output=True, text=True, check=True).stdout
    assert verbs and all(re.search(rf"^\s+{verb}\s", out, re.MULTILINE) for verb in verbs)


def test_leaderboard_is_the_committed_one() -> None:
    lines = [line for line in README.splitlines() if line.startswith("|") and ("%" in line or "[" in line)]
    measured = (ROOT / "results/leaderboard/quickstart.md").read_text().splitlines()
    shown = [line for line in lines if "](" not in line]
    assert len(shown) == 10 and set(shown) <= set(measured)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_picture_of_the_imports() -> None:
    """Each arrow is one that the test of imports allows."""
    text = (ROOT / "docs/architecture.md").read_text()
    names = {"cli": "harness.cli", "pruners": "pruners"}
    names |= {name.rpartition(".")[2]: name for name in ALLOWED}
    arrows = re.findall(r"^  (\w+)(?:\[[^\]]*\])? --> (\w+)", text, re.MULTILINE)
    assert len(arrows) > 8
    for source, target in arrows:
        assert source == "cli" or names[target] in ALLOWED[names[source]], (source, target)
