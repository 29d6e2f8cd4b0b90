"""Killed at any moment and started again, a run ends with the content of an undisturbed one."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from tests.runs.fake import FakeBackend

ROOT = Path(__file__).parents[2]
GRID = ["run", "pruner=none,fastv,random", "keep=1/3", "benchmark=glyph_walk", "limit=200", "engine.slots=2"]
KILLS = 10
FAKE = ["run", "pruner=none,fastv", "keep=1/3", "benchmark.size=150", "executor.gpus=none"]


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


def run_fake(results: Path) -> None:
    """A grid over a fake engine, in a process that starts at once because everything is loaded here already."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os._exit(main([*FAKE, f"paths.results={results}"], FakeBackend(delay=0.003)))


def lived(results: Path, seconds: float | None, after_a_line: bool = False) -> bool:
    """Start the grid and kill it after so many seconds, or so long after its first line; whether it was alive then."""
    process, before = multiprocessing.get_context("fork").Process(target=run_fake, args=(results,)), written(results)
    process.start()
    while after_a_line and process.is_alive() and written(results) == before:
        time.sleep(0.001)
    process.join(seconds)
    process.kill()  # does nothing to one that has ended
    process.join()
    assert process.exitcode in (-signal.SIGKILL, 0)
    return process.exitcode != 0


def written(results: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in lines(results))


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_kills_in_a_row(tmp_path: Path, kills: int) -> None:
    """The same grid, killed at random moments and started again until it ends, and then anew in another folder.

    One kill of four falls anywhere in an undisturbed run's duration, the others soon after a first line.
    """
    began = time.monotonic()
    assert not lived(tmp_path / "whole", None)
    duration, want = time.monotonic() - began, content(tmp_path / "whole")
    rng, done, writing, ended, results = random.Random(kills), 0, 0, 0, tmp_path / "0"
    assert len(want) == 2 * 150
    while done < kills:
        before = written(results)
        anywhere = rng.random() < 0.25
        if lived(results, rng.uniform(0, duration if anywhere else 0.25), not anywhere):
            done, writing = done + 1, writing + (before < written(results) < 2 * 150)
            continue
        check(results, want)
        ended += 1
        results = tmp_path / str(ended)
    assert not lived(results, None)
    check(results, want)
    print(f"{done} kills, {writing} of them while samples were written, in {ended + 1} grids of {duration:.1f} s")
    assert writing >= kills // 2


def check(results: Path, want: dict[tuple[str, str, int], dict[str, Any]]) -> None:
    """Nothing is lost, nothing is there twice, and the summaries are those of an undisturbed run."""
    assert content(results) == want
    assert written(results) == len(want)
    for file in (results.parent / "whole").glob("runs/**/summary.json"):
        assert (results / file.relative_to(results.parent / "whole")).read_text() == file.read_text()
