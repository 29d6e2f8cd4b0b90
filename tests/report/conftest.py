"""Six look-ups and six walks with methods that drop, that choose while decoding and that bring back; half on record."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.cli import main

EXPERIMENT = """
set: {model: tiny_internvl, benchmark: [glyph_lookup, glyph_walk], benchmark.size: 60}
cells:
  - pruner: [none, visionpulse_10, oracle]
  - pruner: [fastv, random]
    keep: 1/3
  - pruner: fastv
    keep: 1/3
    addon: dstp
"""


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "experiment").mkdir()
    (folder / "experiment" / "small.yaml").write_text(EXPERIMENT)
    grid = [f"--config-dir={folder}", "experiment=small", f"paths.results={folder / 'results'}"]
    for limit in ("limit=12", "limit=6 record=attention"):
        assert main(["run", *grid, *limit.split()]) == 0
    return folder / "results"


@pytest.fixture
def copied(stored: Path, tmp_path: Path) -> Callable[[], Path]:
    """Makes a copy of it that a test can damage."""
    return lambda: Path(shutil.copytree(stored, tmp_path / "results"))
