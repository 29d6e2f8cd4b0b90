"""`python -m tests.runs.process DELAY WORKERS ARGUMENT...`: the command line over fake engines, to be interrupted.

Every sample takes DELAY seconds; with WORKERS above 1 there are so many worker processes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from harness.cli import main
from harness.runs import run
from tests.runs.fake import FakeBackend

ROOT = Path(__file__).parents[2]


def start(results: Path, *arguments: str, delay: float, workers: int = 1) -> subprocess.Popen[str]:
    """A grid in a process group of its own, as a terminal starts it."""
    command = [sys.executable, "-m", "tests.runs.process", str(delay), str(workers), *arguments]
    return subprocess.Popen(
        [*command, f"paths.results={results}"], cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def signalled(process: subprocess.Popen[str], number: signal.Signals, *, group: bool) -> tuple[int, str]:
    """Exit code and last words after a signal, to the process alone or to all that it has started."""
    (os.killpg if group else os.kill)(process.pid, number)
    said = process.communicate(timeout=60)[1]
    return process.returncode, said


def gone(group: int, seconds: float = 10) -> bool:
    """Whether nothing is left of a process group."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def lines(results: Path, pattern: str = "runs/**/samples-*.jsonl") -> list[dict[str, Any]]:
    """Every complete line; a last one that is not is left out. Any other damage is an error."""
    texts = [text for file in sorted(results.glob(pattern)) for text in file.read_text().splitlines(keepends=True)]
    return [json.loads(text) for text in texts if text.endswith("\n")]


def wait_for_lines(results: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Until so many samples are done."""
    while sum(file.read_bytes().count(b"\n") for file in results.glob("runs/**/samples-*.jsonl")) < count:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a script starts with & ignores Ctrl-C
    devices = [f"cpu:{i}" for i in range(int(sys.argv[2]))]
    run.find_devices = lambda gpus: devices
    sys.exit(main(sys.argv[3:], FakeBackend(delay=float(sys.argv[1]))))
