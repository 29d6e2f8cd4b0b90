"""Long runs: a full disk, two processes at once, signals, folders of another identity, failed samples run again."""

from __future__ import annotations

import errno
import io
import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cli import main
from harness.runs import log
from harness.runs.log import Log, iter_log, read_log
from harness.runs.outlook.forecast import Assume, forecasts
from harness.runs.run import run_cells
from tests.runs.fake import FakeBackend
from tests.runs.process import gone, lines, signalled, start, wait_for_lines

SMALL = ("executor.gpus=none", "benchmark.size=40")


class Disk(io.FileIO):
    """A file on a disk with so many bytes left, which takes part of a line as a real one does."""

    left = 1 << 30

    def write(self, data: Any) -> int:
        if not Disk.left:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = super().write(bytes(data)[: Disk.left])
        Disk.left -= taken
        return taken


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Disk]]:
    def opened(path: Path, mode: str, buffering: int = -1) -> Any:
        return Disk(path, mode.replace("b", "")) if "a" in mode else open(path, mode, buffering)

    monkeypatch.setattr(log, "open", opened, raising=False)
    yield Disk
    Disk.left = 1 << 30


def test_a_line_that_does_not_fit_is_cut_off(tmp_path: Path, disk: type[Disk]) -> None:
    file = Log(tmp_path, "samples", print)
    file.append({"id": "a"})
    disk.left = 7
    with pytest.raises(OSError, match="No space left"):
        file.append({"id": "b", "text": "long"})
    assert [path.read_text() for path in tmp_path.iterdir()] == ['{"id": "a"}\n']
    disk.left = 1 << 30
    file.append({"id": "c"})
    assert [key for key, _ in iter_log(tmp_path)] == [("a", 0), ("c", 0)]


def test_a_full_disk_ends_the_run_with_one_line(tmp_path: Path, disk: type[Disk], capsys: Any) -> None:
    """No other cell is tried, all that is there can be read, and the same command goes on."""
    command = ["run", "pruner=none,stride", "limit=12", *SMALL, f"paths.results={tmp_path}"]
    disk.left = 6000
    backend = FakeBackend()
    assert main(command, backend) == 1
    told = capsys.readouterr().err.splitlines()
    assert told == [f"vtpbench: no space left for {tmp_path}: make room, then the same command goes on from here"]
    done = lines(tmp_path)
    assert 0 < len(done) < 12 and len(list(tmp_path.glob("runs/*/*/*/*"))) == 1
    assert all(file.read_bytes()[-1:] in (b"", b"\n") for file in tmp_path.glob("runs/**/*.jsonl"))
    disk.left = 1 << 30
    assert main(command, FakeBackend()) == 0
    assert "torn" not in capsys.readouterr().err
    found = [(line["id"], line["code"]) for line in lines(tmp_path)]
    assert len(found) == len(set(found)) == 24 and found[: len(done)] == [(d["id"], d["code"]) for d in done]


@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "summary.json"])
def test_a_full_disk_leaves_no_half_files(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    command, write = ["run", "limit=4", *SMALL, f"paths.results={tmp_path}"], Path.write_text

    def part(self: Path, text: str, *rest: Any) -> int:
        if name in self.name:
            write(self, text[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, text, *rest)

    monkeypatch.setattr(Path, "write_text", part)
    assert main(command, FakeBackend()) == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("vtpbench: no space left for ")
    assert not [file for file in tmp_path.glob("runs/**/*") if name in file.name]
    monkeypatch.setattr(Path, "write_text", write)
    assert main(command, FakeBackend()) == 0 and len(lines(tmp_path)) == 4


def test_two_processes_on_one_cell(tmp_path: Path) -> None:
    """Both write, and what both have made counts once."""
    both = [start(tmp_path, "run", "limit=30", *SMALL, delay=0.2) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    files = sorted(tmp_path.glob("runs/**/samples-*.jsonl"))
    made = [[json.loads(line)["id"] for line in file.open()] for file in files]
    assert len(files) == 2 and all(len(ids) == len(set(ids)) > 0 for ids in made)
    assert len({*made[0], *made[1]}) == 30 < len(made[0]) + len(made[1])
    (summary,) = (json.loads(file.read_text()) for file in tmp_path.glob("runs/**/summary.json"))
    assert (summary["n"], summary["selected"], summary["complete"]) == (30, 30, True)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(tmp_path: Path, number: signal.Signals, code: int, workers: int) -> None:
    """Whole lines, one word, no process left behind; Ctrl-C reaches the workers too. Then the rest is made."""
    command = ("run", "pruner=none,stride", "limit=40", *SMALL)
    process = start(tmp_path, *command, delay=0.05, workers=workers)
    wait_for_lines(tmp_path, 5, process)
    returned, said = signalled(process, number, group=number == signal.SIGINT)
    assert (returned, said) == (code, "vtpbench: interrupted; the same command goes on from here\n")
    assert gone(process.pid)
    (cell,) = tmp_path.glob("runs/*/*/*/*")
    done = lines(tmp_path)
    assert 5 <= len(done) < 40
    assert all(file.read_bytes()[-1:] in (b"", b"\n") for file in tmp_path.glob("runs/**/*.jsonl"))
    assert json.loads((cell / "summary.json").read_text())["n"] == len(done)
    assert main([*command, f"paths.results={tmp_path}"], FakeBackend()) == 0
    assert len(lines(tmp_path)) == 80


def test_a_folder_of_another_identity_is_refused(run: Any, plan: Any, backend: FakeBackend) -> None:
    (outcome,) = run("pruner=fastv", "limit=4")
    file = outcome.cell.folder / "config.yaml"
    config = yaml.safe_load(file.read_text())
    config["identity"]["pruner"]["layer"] = 3
    del config["identity"]["decoding"]["seed"]
    file.write_text(yaml.safe_dump(config))
    before = {path: path.read_bytes() for path in outcome.cell.folder.rglob("*") if path.is_file()}
    for extra in ("limit=6", "resume=fresh", "only=failed"):
        (refused,) = run("pruner=fastv", "limit=4", extra)
        assert refused.failed and refused.summary is None
        assert refused.error == (
            f"{file} is of another identity, which differs in pruner.layer, decoding.seed: move that folder away"
        )
    assert {path: path.read_bytes() for path in outcome.cell.folder.rglob("*") if path.is_file()} == before


def test_failed_samples_alone_run_again(plan: Any, backend: FakeBackend, capsys: Any) -> None:
    """In place of their errors, as the forecast says; what is missing stays so."""
    cells = plan("limit=10", "subset.mode=first").cells
    run_cells(cells, replace(backend, failing=frozenset({"00001", "00004"})))
    longer = plan("limit=20", "subset.mode=first", "only=failed").cells
    (expected,) = forecasts(longer, "h200", Assume())
    assert (expected.samples, expected.done) == (2, 0)
    worse = replace(backend, failing=frozenset({"00004"}), engines=[])
    (outcome,) = run_cells(longer, worse)
    assert [sorted(engine.seen) for engine in worse.engines] == [["00001", "00004"]]
    assert (outcome.summary["n"], outcome.summary["failures"], outcome.summary["complete"]) == (9, 1, False)
    folder = cells[0].folder
    records = read_log(folder)
    assert len(records) == 10 and records["00001", 0]["error"] is None and records["00004", 0]["error"]
    assert len(lines(folder, "samples-*.jsonl")) == 12
    assert len(lines(folder, "scores/*.jsonl")) == 9
    run_cells(longer, backend)
    capsys.readouterr()
    fine = replace(backend, engines=[])
    (outcome,) = run_cells(longer, fine)
    assert not fine.engines and not outcome.failed
    assert "no sample has failed, nothing to do" in capsys.readouterr().err
    assert len(lines(folder, "samples-*.jsonl")) == 13
    (outcome,) = run_cells(plan("limit=20", "subset.mode=first").cells, fine)
    assert outcome.summary["n"] == 20 and len(fine.engines[0].seen) == 10


def test_failed_samples_of_a_cell_that_is_not_there(plan: Any, backend: FakeBackend) -> None:
    (cell,) = plan("limit=10", "only=failed").cells
    (outcome,) = run_cells([cell], backend)
    assert not outcome.failed and not backend.engines and not cell.folder.exists()


def test_what_is_recorded_beside_a_failed_sample_is_replaced_too(plan: Any, backend: FakeBackend) -> None:
    (cell,) = plan("limit=5", "subset.mode=first", "record=kept").cells
    run_cells([cell], replace(backend, failing=frozenset({"00001"})))
    assert read_log(cell.folder, "kept")["00001", 0]["kept"] == []
    run_cells(plan("limit=5", "subset.mode=first", "record=kept", "only=failed").cells, backend)
    kept = [json.loads(line) for line in (cell.folder / "kept.jsonl").open()]
    assert [entry["id"] for entry in kept] == [f"{i:05d}" for i in range(5)] and all(entry["kept"] for entry in kept)


def test_only_failed_and_fresh_contradict() -> None:
    assert main(["run", "only=failed", "resume=fresh"], FakeBackend()) == 2
    assert main(["run", "only=missing"], FakeBackend()) == 2
