"""LaTeX of every table compiles, where a TeX is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from harness.runs.compose import Configs
from harness.tables import leaderboard, pivot, published_table
from harness.tables.reproduction import reproduction

TEX = next(filter(None, map(shutil.which, ("pdflatex", "xelatex", "lualatex", "tectonic"))), None)


@pytest.mark.skipif(TEX is None, reason="no TeX is installed")
def test_every_table_compiles(cell, results, tmp_path):
    cell("none", [1.0, 0.0, 1.0, 1.0] * 10)
    cell("fastv", [1.0, 0.0, 0.0, 1.0] * 10, keep=1 / 3)
    texts = [
        leaderboard(results, command="vtpbench table a_b=50%").to_latex(),
        pivot(results, budget="ret_decode").to_latex(),
        published_table("fastv", "llava_1_5_7b").to_latex(),
        reproduction(["dstp_table1", "dstp_efficiency"], Configs.find(), Path("nowhere")).to_latex(),
    ]
    head = r"\documentclass{article}\usepackage[landscape]{geometry}\usepackage{booktabs,longtable}\begin{document}"
    (tmp_path / "all.tex").write_text("\n".join([head, *texts, r"\end{document}"]))
    flags = [] if "tectonic" in str(TEX) else ["-interaction=nonstopmode", "-halt-on-error"]
    done = subprocess.run([str(TEX), *flags, "all.tex"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
