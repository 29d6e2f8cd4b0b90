"""Runs on Ray actors end with the content of a local run, also if one is killed on the way."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.runs.actors import Actors
from harness.runs.log import read_log
from harness.runs.pool import Pool
from harness.runs.run import run_cells
from tests.runs.fake import FakeBackend

pytest.importorskip("ray")
GRID = ("pruner=none,fastv", "keep=1/3", "limit=40", "executor=ray", "executor.workers=2")


def own_actors() -> list[int]:
    """Processes of actors that descend from this one."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(b"ray::Serving") and os.getpid() in ancestors(folder):
                found.append(int(folder.name))
        except OSError:  # gone meanwhile
            continue
    return found


def ancestors(folder: Path) -> Iterator[int]:
    while parent := int((folder / "stat").read_text().rpartition(")")[2].split()[1]):
        yield parent
        folder = Path("/proc", str(parent))


def content(folder: Path) -> dict[Any, Any]:
    return {key: (record["text"], record["finish"], record["code"]) for key, record in read_log(folder).items()}


def test_a_killed_worker_loses_nothing(
    plan: Callable[..., Any], backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker is killed between the first and the last line; two cells are in the queue; nothing is there twice."""
    monkeypatch.setattr("harness.runs.pool.CHUNK", 4)
    cells = plan(*GRID).cells
    slow = replace(backend, delay=0.1)
    killed: list[int] = []

    def kill() -> None:
        while not any(lines(cell.folder) for cell in cells) or not (there := own_actors()):
            time.sleep(0.05)
        os.kill(there[0], signal.SIGKILL)
        killed.append(sum(lines(cell.folder) for cell in cells))

    executor = Pool(Actors(slow, cells[0].config.executor))
    threading.Thread(target=kill, daemon=True).start()
    outcomes = run_cells(cells, slow, executor)
    assert killed and killed[0] < 80, "it was killed too late"
    spread = [content(cell.folder) for cell in cells]
    assert [lines(cell.folder) for cell in cells] == [40, 40]
    assert not any(outcome.failed or outcome.summary["failures"] for outcome in outcomes)
    run_cells(plan(*GRID[:3], "executor=local", "executor.gpus=none", "resume=fresh").cells, backend)
    assert [content(cell.folder) for cell in cells] == spread


def lines(folder: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in folder.glob("samples-*.jsonl"))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["executor.workers=0"], "executor.workers must be at least 1, got 0"),
        (["executor.gpus='0,1'"], "executor.gpus must be all or none with executor=ray, got 0,1"),
    ],
)
def test_wrong_input(overrides: list[str], told: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["run", "limit=2", "executor=ray", f"paths.results={tmp_path}", *overrides]
    assert main(command) == 2
    assert capfd.readouterr().err.splitlines()[-1] == f"vtpbench: {told}"
