"""The README's method, from an empty folder, against the installed wheel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TINY = "model=tiny_qwen3_vl,tiny_internvl,tiny_llava"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of an environment that has the wheel, and of its dependencies those of this environment."""
    place = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    made = subprocess.run([*pip, "wheel", "--no-deps", "-w", place, ROOT], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no wheel can be built here: {made.stderr.strip().splitlines()[-1]}")
    venv.create(place / "env", with_pip=False)
    programs = place / "env" / "bin"
    (wheel,) = place.glob("*.whl")
    install = [*pip, "--python", programs / "python", "install", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, capture_output=True, text=True)
    (site,) = (place / "env" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return programs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Empty but for the README's method."""
    found = tmp_path_factory.mktemp("mine")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (found / "mymodule.py").write_text(next(block for block in blocks if "LargestNorm" in block))
    return found


def output(program: Path, folder: Path, *arguments: str) -> str:
    """What a program prints, started in a folder without any help of ours."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PYTEST"))}
    done = subprocess.run([program, *arguments], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_the_wheel(programs: Path, folder: Path) -> None:
    code = "import harness, pruners; print(harness.__file__); print(pruners.__file__)"
    places = output(programs / "python", folder, "-c", code).split()
    assert all(Path(place).is_relative_to(programs.parent) for place in places)


def test_nothing_is_missing(programs: Path, folder: Path) -> None:
    listed = output(programs / "vtpbench", folder, "list")
    assert all(name in listed for name in ("tiny_llava", "fastv", "glyph_walk", "dstp_table1", "vlmevalkit"))
    assert "fastv" in output(programs / "vtpbench", folder, "published", "fastv", "llava_1_5_7b")


def test_the_method_runs_on_three_models(programs: Path, folder: Path) -> None:
    mine = ("pruner._target_=mymodule.LargestNorm", "keep=1/3", TINY)
    output(programs / "vtpbench", folder, "run", *mine, "benchmark=glyph_walk", "limit=2", "executor.gpus=none")
    table = output(programs / "vtpbench", folder, "table", "to=csv")
    assert table.count("LargestNorm") >= 3 and all(name in table for name in TINY.partition("=")[2].split(","))
    assert len(list((folder / "results" / "runs").glob("*/glyph_walk/LargestNorm@0.333/*/summary.json"))) == 3


def test_the_method_conforms(programs: Path, folder: Path) -> None:
    said = output(programs / "vtpbench", folder, "conform", "pruner._target_=mymodule.LargestNorm", "keep=1/3")
    assert said.count(" ok ") >= 3 * 8 and "failed" not in said
