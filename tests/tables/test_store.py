"""Copies of the samples: the same frames as from the logs, never old ones, and no need to write any."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from harness.runs.errors import InputError
from harness.tables import cells_frame, load, samples_frame, store
from tests.tables.conftest import sample

Write = Callable[..., Path]


def settle(results: Path) -> None:
    """Make all files old enough for a copy."""
    for file in results.rglob("*.*"):
        os.utime(file, (1e9, 1e9))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Folders whose logs are read in this process."""
    folders: list[str] = []
    read = store.read_samples

    def watched(folder: Path, config: dict[str, object]) -> object:
        folders.append(folder.parent.name)
        return read(folder, config)

    monkeypatch.setattr(store, "read_samples", watched)
    yield folders


def copies(results: Path) -> list[Path]:
    return sorted((results / "cache").rglob("*.arrow"))


def test_a_copy_gives_the_same_frames_without_the_logs(results: Path, cell: Write, reads: list[str]) -> None:
    cell("none", [1.0, 0.0, None, 1.0], clusters=2)
    cell("fastv", [0.5, None], keep=0.25)
    cell("blind", [])
    settle(results)
    first = load(results)
    assert (len(reads), len(copies(results))) == (3, 3)
    for again in (load(results), load(results / "runs")):
        for left, right in zip(first, again, strict=True):
            pd.testing.assert_frame_equal(left, right)
    assert len(reads) == 3
    with_text = samples_frame(results)
    assert list(with_text.text) == ["so 0.5", "", "so 1", "so 0", "so 1", ""]  # errors last
    pd.testing.assert_frame_equal(with_text.drop(columns="text"), first[1])


@pytest.mark.parametrize("change", ["append", "score", "rewrite", "new writer", "config", "code"])
def test_an_old_copy_is_not_used(
    results: Path, cell: Write, reads: list[str], change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cell("none", [1.0, 0.0])
    cell("fastv", [1.0], keep=0.25)
    settle(results)
    load(results)
    reads.clear()
    log, (scores,) = folder / "samples-main.jsonl", (folder / "scores").iterdir()
    expected = {"n": 2, "accuracy": 0.5, "model": "tiny_qwen3_vl"}
    if change == "append":
        with log.open("a") as file:
            file.write(json.dumps(sample(7, None, 1.0)) + "\n" + json.dumps(sample(8, 1.0, 1.0))[:50])
        expected["failed"] = 1
    elif change == "score":
        scores.write_text("")
        expected |= {"unjudged": 2, "accuracy": None}
    elif change == "rewrite":  # as long and as old as before
        scores.write_text(scores.read_text().replace('"value": 0.0', '"value": 1.0'))
        settle(results)
        expected["accuracy"] = 1.0
    elif change == "new writer":
        (folder / "samples-other.jsonl").write_text(json.dumps(sample(9, 1.0, 1.0)) + "\n")
        expected |= {"n": 3, "unjudged": 1, "accuracy": None}
    elif change == "config":
        config = folder / "config.yaml"
        config.write_text(config.read_text().replace("name: tiny_qwen3_vl", "name: another"))
        expected["model"] = "another"
    else:
        monkeypatch.setattr(store, "_code", lambda: b"of tomorrow")
    row = cells_frame(results).set_index("method").loc["none"]
    assert {key: None if pd.isna(row[key]) else row[key] for key in expected} == expected
    assert "none" in reads


@pytest.mark.parametrize("at", ["head", "settings", "content", "end", "all"])
def test_a_damaged_copy_is_made_anew(results: Path, cell: Write, reads: list[str], at: str) -> None:
    cell("none", [1.0, 0.0, 1.0])
    settle(results)
    first = load(results)
    (copy,) = copies(results)
    whole = copy.read_bytes()
    place = {"head": 3, "settings": whole.index(b"greedy"), "content": len(whole) // 2 + 300}.get(at)
    if place is None:
        copy.write_bytes(whole[:-7] if at == "end" else b"")
    else:
        copy.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    for left, right in zip(first, load(results), strict=True):
        pd.testing.assert_frame_equal(left, right)
    assert (len(reads), copy.read_bytes()) == (2, whole)


def test_logs_that_have_just_changed_get_no_copy(results: Path, cell: Write) -> None:
    cell("none", [1.0])
    load(results)
    assert not copies(results)


@pytest.mark.parametrize("much", [False, True])
def test_a_folder_that_cannot_be_written_is_read(
    results: Path, cell: Write, monkeypatch: pytest.MonkeyPatch, much: bool
) -> None:
    cell("none", [1.0, 0.0])
    settle(results)
    (results / "cache").write_text("a file, so that even root can put nothing there")
    monkeypatch.setattr(store, "_MUCH", 0 if much else 1e9)
    assert cells_frame(results).accuracy.tolist() == [0.5]


def test_other_processes_read_their_share(
    results: Path, cell: Write, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, method in enumerate(("none", "fastv", "stride", "dart")):
        cell(method, [1.0, 0.0, 1.0], clusters=2, seed=seed)
    settle(results)
    alone = load(results)
    for copy in copies(results):
        copy.unlink()
    reads.clear()
    monkeypatch.setattr(store, "_MUCH", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    for left, right in zip(alone, load(results), strict=True):
        pd.testing.assert_frame_equal(left, right)
    assert reads == ["dart", "none"]  # the first and the third; the others were found


def test_a_line_that_another_process_could_not_read_is_named(
    results: Path, cell: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell("fastv", [1.0])
    with (cell("none", [1.0]) / "samples-main.jsonl").open("a") as log:
        log.write("{\n")
    settle(results)
    monkeypatch.setattr(store, "_MUCH", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    with pytest.raises(InputError, match=r"none/greedy-0a1b2c3d/samples-main.jsonl, line 2"):
        load(results)


def test_a_line_of_another_form_is_one_clear_error(results: Path, cell: Write) -> None:
    folder = cell("none", [1.0])
    line = json.loads((folder / "samples-main.jsonl").read_text())
    lacking = {name: value for name, value in line.items() if name != "answer_tokens"}
    for broken, says in (
        (lacking, r"greedy-0a1b2c3d: a line of the logs is not that of a sample"),
        (line | {"kv": "half"}, r"samples-main\.jsonl, line 1 is damaged.*kv cannot be 'half'"),
        (line | {"flops": 3}, r"samples-main\.jsonl, line 1 is damaged.*flops cannot be '3'"),
    ):
        (folder / "samples-main.jsonl").write_text(json.dumps(broken) + "\n")
        with pytest.raises(InputError, match=says):
            load(results)


def test_half_a_surrogate_pair_in_an_answer_is_spelt_out(results: Path, cell: Write) -> None:
    folder = cell("none", [1.0, 1.0])
    (file,) = folder.glob("scores/*.jsonl")
    file.write_text(file.read_text().replace('"extracted": "7"', '"extracted": "7\\ud800"'))
    settle(results)
    for _ in range(2):  # from the logs, then from the copy
        assert "7\\ud800" in list(samples_frame(results).extracted)
        assert list(load(results)[0].accuracy) == [1.0]
