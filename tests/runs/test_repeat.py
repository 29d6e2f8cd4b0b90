"""`vtpbench repeat`: a stored cell run again as it is, and how many of its answers flip."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cli import main
from harness.engine.trace import Decoding, Recorded, Request, Trace
from harness.runs.config import EngineConfig, ModelConfig
from harness.runs.overview import read_noise
from harness.runs.repeat import Reply, stored_cell
from harness.tables import TablesError, leaderboard
from harness.tables.noise import flips, noise
from pruners.base import Pruner
from tests.runs.fake import FakeBackend, FakeEngine


class Shaky(FakeEngine):
    """Answers otherwise in every tenth sample with one slot, and writes something else around it in every fifth."""

    def __init__(self, slots: int | None) -> None:
        super().__init__()
        self.slots = slots

    def run(
        self, requests: Iterable[Request], pruner: Pruner, decoding: Decoding, *, record: Recorded | None = None
    ) -> Iterator[Trace]:
        for i, request in enumerate(requests):
            self.seen.append(request.id)
            trace = self.trace(request, record)
            if self.slots == 1 and i % 10 == 0:
                trace.text = str(int(trace.text) % 5 + 1)
            elif self.slots == 1 and i % 5 == 0:
                trace.text += "."
            yield trace


@dataclass(frozen=True)
class ShakyBackend(FakeBackend):
    def engine(self, model: ModelConfig, config: EngineConfig, device: str) -> FakeEngine:
        self.engines.append(Shaky(config.slots))
        return self.engines[-1]


@pytest.fixture
def folder(run: Any) -> Path:
    """A cell of 40 samples."""
    (outcome,) = run("pruner=fastv", "keep=1/3")
    found: Path = outcome.cell.folder
    return found


def test_flips_are_counted_and_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    assert main(["repeat", str(folder), "n=2", "slots=1,16"], ShakyBackend()) == 0
    shown = capsys.readouterr().out
    kept = json.loads((folder / "repeat.json").read_text())
    rows = {tuple(row["slots"]): row for row in kept["flips"]}
    assert {key: row["pairs"] for key, row in rows.items()} == {(1, 1): 1, (16, 16): 1, (1, 16): 4}
    assert rows[1, 1]["answers"]["value"] == rows[16, 16]["texts"]["value"] == 0
    assert rows[1, 16]["answers"]["value"] == pytest.approx(0.1)
    assert rows[1, 16]["texts"]["value"] == pytest.approx(0.2)
    low, high = (rows[1, 16]["answers"][key] for key in ("low", "high"))
    assert 0 < low < 0.1 < high < 0.3
    assert read_noise(folder) == kept["noise"] == pytest.approx(0.1)
    assert "1 against 16 slots" in shown and "10.0 [" in shown and "20.0 [" in shown
    assert before.items() <= {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}.items()


def test_on_the_samples_that_were_run(folder: Path) -> None:
    backend = ShakyBackend()
    assert main(["repeat", str(folder), "n=2", "slots=3", "limit=6"], backend) == 0
    (engine,) = backend.engines
    assert len(engine.seen) == 12 and len(set(engine.seen)) == 6
    assert json.loads((folder / "repeat.json").read_text())["asked"] == 6


def test_tables_print_it_beside_differences(folder: Path, run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run("pruner=none")
    results = folder.parents[4]
    plain = leaderboard(results).to_markdown()
    assert "flips" not in plain.lower()
    assert main(["repeat", str(folder), "n=2"], ShakyBackend()) == 0
    board = leaderboard(results)
    text = board.to_markdown()
    assert "noise flips %" in text and "vtpbench repeat" in text
    assert board.frame.set_index("method").noise["fastv"] == pytest.approx(0.1)
    capsys.readouterr()
    assert main(["table", f"paths.results={results}", "rows=method", "to=md"]) == 0
    assert ", flips 10.0)" in capsys.readouterr().out
    assert main(["diff", str(folder), str(folder)]) == 0
    assert "when the first runs again: 10.0 %" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["n=0"], "n must be a whole number of at least 1"),
        (["n=1,2"], "n must be a whole number"),
        (["slots=0"], "slots must be whole numbers of at least 1"),
        (["slots=1,x"], "slots must be whole numbers"),
        (["n=1", "slots=4"], "nothing to be compared with"),
        (["limit=0"], "limit must be"),
        (["keep=1"], "unknown key keep"),
    ],
)
def test_bad_input(folder: Path, overrides: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["repeat", str(folder), *overrides], ShakyBackend()) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_no_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (([str(tmp_path)], "not the folder of a cell"), ([], "needs one cell folder")):
        assert main(["repeat", *arguments], ShakyBackend()) == 2
        assert message in capsys.readouterr().err


def test_what_is_not_the_same_cell_any_more(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stored_cell(folder, FakeBackend()).folder.name == folder.name
    assert main(["repeat", str(folder)], FakeBackend(processor="other")) == 2
    error = capsys.readouterr().err
    assert "model.processor differ" in error and error.count("\n") == 1


def test_a_class_that_a_stranger_names_is_not_imported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "config.yaml"
    plain = yaml.safe_load(file.read_text())
    plain["pruner"]["_target_"] = "nowhere.at.All"
    file.write_text(yaml.safe_dump(plain))
    for more, why in (([], "allow=nowhere permits it"), (["allow=nowhere"], "nowhere.at.All cannot be imported")):
        assert main(["repeat", str(folder), *more], FakeBackend()) == 2
        error = capsys.readouterr().err
        assert why in error and error.count("\n") == 1


def test_a_model_that_cannot_be_loaded(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The real engine finds no such folder."""
    file = folder / "config.yaml"
    plain = yaml.safe_load(file.read_text())
    plain["model"]["path"] = "/nowhere/at/all"
    file.write_text(yaml.safe_dump(plain))
    assert main(["repeat", str(folder)]) == 2
    error = capsys.readouterr().err
    assert "/nowhere/at/all" in error and error.count("\n") == 1


def test_an_engine_that_breaks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["repeat", str(folder)], FakeBackend(breaks_at=3)) == 2
    assert "the engine is broken" in capsys.readouterr().err and not (folder / "repeat.json").exists()


def test_rates_against_brute_force() -> None:
    """Over all pairs of runs, sample by sample; failed samples are in no run."""
    rng = random.Random(3)
    runs = [{(f"s{i}", 0): Reply(rng.randint(0, 1), rng.choice("ab")) for i in range(30)} for _ in range(6)]
    del runs[4]["s7", 0]
    found = {row.slots: row for row in flips(runs, [1, 8], {f"s{i}": f"c{i // 2}" for i in range(30)})}
    keys = [key for key in runs[0] if key != ("s7", 0)]
    first, second = runs[:3], runs[3:]
    several = [(a, b) for a in first for b in second]
    same = [(first[i], first[j]) for i in range(3) for j in range(i)]
    for slots, pairs in (((1, 8), several), ((1, 1), same)):
        for part in ("answer", "text"):
            differ = [getattr(a[key], part) != getattr(b[key], part) for a, b in pairs for key in keys]
            assert getattr(found[slots], f"{part}s").value == pytest.approx(sum(differ) / len(differ))
        assert (found[slots].pairs, found[slots].samples) == (len(pairs), 29)
    assert noise([*found.values()]) == max(row.answers.value for row in found.values())
    with pytest.raises(TablesError, match="no sample"):
        flips([{}, runs[0]], [1], {})
