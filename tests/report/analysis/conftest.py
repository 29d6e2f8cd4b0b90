"""Six look-ups and six walks of a tiny model with methods that prune in prefill, while decoding, and both."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli import main

CELLS = ("pruner=none,visionpulse_10", "pruner=random,fastv keep=1/3", "pruner=fastv addon=dstp keep=1/3")
ALWAYS = "pruner=fastv addon=dstp keep=1/3 benchmark=glyph_walk addon"
MORE = (
    "pruner=fastv keep=2/3", f"{ALWAYS}.swap=full addon.tau=2", f"{ALWAYS}.recall=dense addon.tau=0",
    f"{ALWAYS}.trigger=random addon.rate=0.1,0.9", f"{ALWAYS}.tau=0.1,0.75 addon.L=1,20",
)  # fmt: skip


@pytest.fixture(scope="session")
def small_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("results")
    common = ["model=tiny_internvl", "limit=6", "record=attention", f"paths.results={results}"]
    for cell in (*CELLS, *MORE):
        assert main(["run", "benchmark=glyph_lookup,glyph_walk", *common, *cell.split()]) == 0
    return results
