"""Killed at any moment and started again, a run ends with the content of an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
GRID = ["run", "pruner=none,fastv,random", "keep=1/3", "benchmark=glyph_walk", "limit=200", "engine.slots=2"]
KILLS = 10


def start(results: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "harness", *GRID, f"paths.results={results}"]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def lines(results: Path) -> list[Path]:
    return sorted(results.glob("runs/**/samples-*.jsonl"))


def content(results: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Every sample of every cell with its verdict: the first line counts; time and memory are left out."""
    out: dict[tuple[str, str, int], dict[str, Any]] = {}
    for file in lines(results):
        scores = [json.loads(line) for path in file.parent.glob("scores/*") for line in path.read_text().splitlines()]
        verdicts = {(line["id"], line["repeat"]): line for line in scores}
        for line in file.read_text().splitlines():
            record = json.loads(line)
            for name in ("prefill_seconds", "decode_seconds", "peak_memory"):
                del record[name]
            record.get("kv_bytes", {}).pop("allocated", None)
            record["verdict"] = verdicts[record["id"], record["repeat"]]
            out.setdefault((str(file.parent.relative_to(results)), record["id"], record["repeat"]), record)
    return out


@pytest.mark.slow
def test_ten_kills(tmp_path: Path) -> None:
    """Kills drawn uniformly over the undisturbed run's duration, at least six between its first and its last line."""
    began, first = time.monotonic(), None
    process = start(tmp_path / "whole")
    while process.poll() is None:
        if first is None and any(file.stat().st_size for file in lines(tmp_path / "whole")):
            first = time.monotonic() - began
        time.sleep(0.01)
    last = max(file.stat().st_mtime for file in lines(tmp_path / "whole")) - time.time() + time.monotonic() - began
    duration = time.monotonic() - began
    want = content(tmp_path / "whole")
    assert process.returncode == 0 and first is not None
    assert len(want) == 3 * 200
    moments = [(i + random.Random(i).random()) / KILLS * duration for i in range(KILLS)]  # one in each tenth
    inside = sum(first < moment < last for moment in moments)
    print(f"run of {duration:.1f} s, lines from {first:.1f} s to {last:.1f} s; {inside} of {KILLS} kills between them")
    assert inside >= 6
    for i, moment in enumerate(moments):
        results = tmp_path / str(i)
        process = start(results)
        time.sleep(moment)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        again = start(results)
        assert again.wait() == 0
        assert content(results) == want, f"killed after {moment:.1f} s"
