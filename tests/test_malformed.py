"""Malformed configurations, overrides and logs: one line that names the culprit, never a traceback.

Pictures, data files, replies of judges and golden files: test_malformed_data.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cli import main
from tests.runs.fake import FakeBackend

GRID = ["executor.gpus=none", "benchmark=glyph_walk", "benchmark.size=40"]


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Runs a command that must end with code 2 and one line that holds all of `culprits`."""

    def check(arguments: list[str], *culprits: str) -> None:
        if arguments[0] == "run":
            arguments = [*arguments, f"paths.results={tmp_path / 'out'}", "executor.gpus=none", "limit=1"]
        capsys.readouterr()
        code, printed = main(arguments, FakeBackend()), capsys.readouterr()
        assert code == 2 and printed.err.startswith("vtpbench: ") and printed.err.count("\n") == 1, printed.err
        for culprit in culprits:
            assert culprit in printed.err, printed.err
        assert "Traceback" not in printed.err and printed.err.strip().isprintable()

    return check


MODEL = "path: x\nfamily: qwen3_vl\n"
CONFIGS: dict[str, tuple[str, str | bytes, str]] = {
    "open bracket": ("model", "path: [", "mine.yaml cannot be read: while parsing a flow node"),
    "a list": ("model", "- a\n", "model=mine must be a group of keys"),
    "empty": ("model", "", "model.path, model.family= is missing"),
    "unknown key": ("model", f"{MODEL}pathh: y\n", "unknown key model.pathh"),
    "wrong type": ("model", f"{MODEL}max_pixels: many\n", "model.max_pixels must be a whole number or null"),
    "not UTF-8": ("model", b"path: \xff\xfe\n", "mine.yaml cannot be read: 'utf-8' codec"),
    "tab": ("model", "path:\n\t- x\n", "mine.yaml cannot be read: while scanning"),
    "zero byte": ("model", "path: a\0b\n", "mine.yaml cannot be read: unacceptable character"),
    "twice": ("model", f"{MODEL}path: y\n", "found duplicate key path"),
    "tag of Python": ("model", "path: !!python/object/apply:os.getcwd []\n", "tag:yaml.org,2002:python/object/apply"),
    "no such alias": ("model", "path: *x\n", "found undefined alias"),
    "left open": ("model", "path: ???\nfamily: qwen3_vl\n", "model.path: Missing mandatory value"),
    "no such default": ("model", f"defaults: [nothing]\n{MODEL}", "In 'model/mine': Could not load 'model/nothing'"),
    "no such interpolation": ("pruner", "_target_: pruners.FastV\nkeep: ${nope}\n", "pruner.keep: Interpolation"),
    "no class": ("pruner", "keep: 0.5\n", "pruner._target_= is missing"),
    "class is a list": ("pruner", "_target_: [pruners.FastV]\n", "pruner._target_=['pruners.FastV']"),
    "class is a function": ("pruner", "_target_: pruners.base.parameters\n", "parameters is not a dataclass"),
    "stages are a word": ("pruner", "_target_: pruners.Pipeline\nmethods: fastv\n", "pruner.methods must be a list"),
    "unknown part of a protocol": (
        "protocol", "version: 1\nbenchmarks: {glyph_lookup: {nope: 1}}\n", "protocol.benchmarks.glyph_lookup.nope",
    ),
    "a word": ("judge", "just text", "unknown key judge.just text"),
    "no such rule": (
        "benchmark", "_target_: harness.benchmarks.table.Table\nset: wemath\nrule: q\nlenient: q\n",
        "unknown rule 'q'",
    ),
    "cells are no list": ("experiment", "cells: {model: x}\n", "mine.yaml is not an experiment: cells must be a list"),
    "a cell is a word": ("experiment", "cells: [text]\n", "mine.yaml is not an experiment: cells must be a group"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIGS)
def test_configs(case: str, tmp_path: Path, refused: Callable[..., None]) -> None:
    group, text, culprit = CONFIGS[case]
    (tmp_path / group).mkdir()
    (tmp_path / group / "mine.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(["run", f"{group}=mine", f"--config-dir={tmp_path}"], culprit)


OVERRIDES = {
    "no value": (["keep"], "expected key=value, got 'keep'"),
    "blank in a key": (["ke ep=1"], "got 'ke ep=1'"),
    "open bracket": (["keep=[0.5"], "cannot read keep=[0.5"),
    "unknown option": (["pruner=nope"], "unknown pruner 'nope'"),
    "unknown key": (["nope=1"], "unknown key nope"),
    "unknown parameter": (["pruner=fastv", "pruner.nope=1"], "unknown key pruner.nope"),
    "word for a number": (["seed=many"], "seed must be a whole number, got 'many'"),
    "value for a group": (["engine=fast"], "engine must be a group of keys"),
    "group for a value": (["seed={a: 1}"], "seed must be a whole number, got {'a': 1}"),
    "out of range": (["keep=nan"], "keep must lie in (0, 1], got nan"),
    "zero byte": (["model.path=a\0b"], "cannot read model.path=a\\x00b"),
    "escape code": (["protocol.system=\x1b[31m"], "cannot read protocol.system=\\x1b[31m"),
    "relative class": (["pruner._target_=..."], "pruner._target_=... cannot be imported"),
    "class of nothing": (["pruner._target_="], "pruner._target_= cannot be imported"),
    "no such module": (["pruner._target_=nope.Nope"], "No module named 'nope'"),
    "function as class": (["pruner._target_=os.getcwd"], "os.getcwd is not a dataclass"),
    "open range": (["keep=range(0,)"], "cannot read keep=range(0,)"),
    "glob of nothing": (["pruner=glob(zzz*)"], "pruner=glob(zzz*) matches nothing"),
    "deleted group": (["~pruner"], "expected key=value, got '~pruner'"),
    "empty path": (["model.path="], "model.path= is empty"),
    "limits crossed": (["model.min_pixels=9", "model.max_pixels=4"], "model.min_pixels=9 and model.max_pixels=4"),
    "two budgets": (["keep=1/2", "tokens=3"], "give keep= or tokens=, not both"),
    "no slots": (["engine.slots=0"], "engine.slots must be at least 1, got 0"),
    "share above one": (["fail_on_error=2"], "fail_on_error must lie in [0, 1], got 2"),
    "file of something else": (["pruner=replay", f"pruner.path={__file__}"], "malformed.py does not hold kept sets"),
}  # fmt: skip


@pytest.mark.parametrize("case", OVERRIDES)
def test_overrides(case: str, refused: Callable[..., None]) -> None:
    arguments, culprit = OVERRIDES[case]
    refused(["run", *arguments], culprit)


def edited(**fields: Any) -> Callable[[bytes], bytes]:
    """A line with other fields; `...` leaves one out."""

    def change(line: bytes) -> bytes:
        merged = {**json.loads(line), **fields}
        return json.dumps({name: value for name, value in merged.items() if value is not ...}).encode()

    return change


LOGS: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "rubbish": ("samples-*.jsonl", lambda line: b"{nope", "line 2 is damaged"),
    "a list": ("samples-*.jsonl", lambda line: b"[1]", "line 2 is damaged"),
    "zero bytes": ("samples-*.jsonl", lambda line: bytes(99), "line 2 is damaged"),
    "not UTF-8": ("samples-*.jsonl", lambda line: b"\xff" + line, "line 2 is damaged"),
    "deep": ("samples-*.jsonl", lambda line: b"[" * 100_000, "line 2 is damaged"),
    "no id": ("samples-*.jsonl", edited(id=...), "(id is missing)"),
    "id is a list": ("samples-*.jsonl", edited(id=["a"]), "(id cannot be \"['a']\")"),
    "no reply": ("samples-*.jsonl", edited(text=...), "(text is missing)"),
    "repeat is a word": ("samples-*.jsonl", edited(repeat="x"), "(repeat cannot be 'x')"),
    "FLOPs are a word": ("samples-*.jsonl", edited(flops="many"), "(flops cannot be 'many')"),
    "a part of the KV bytes is none": ("samples-*.jsonl", edited(kv_bytes={"visible": None}), "(kv_bytes holds"),
    "nothing but an id": ("samples-*.jsonl", lambda line: b'{"id": "a"}', "(repeat is missing)"),
    "a verdict is a word": ("scores/*.jsonl", edited(value="right"), "(value cannot be 'right')"),
    "a verdict without reply": ("scores/*.jsonl", edited(reply=...), "is damaged; remove it"),
    "rubbish among verdicts": ("scores/*.jsonl", lambda line: b"nope", "line 2 is damaged"),
}  # fmt: skip


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with one cell."""
    folder = tmp_path_factory.mktemp("ran")
    assert main(["run", *GRID, "limit=4", f"paths.results={folder}"], FakeBackend()) == 0
    return folder


@pytest.fixture
def cell(ran: Path, tmp_path: Path) -> Path:
    """The cell of a copy of it."""
    for file in ran.rglob("*"):
        if file.is_file():
            copy = tmp_path / "copy" / file.relative_to(ran)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    (found,) = tmp_path.glob("copy/runs/*/*/*/*")
    return found


@pytest.mark.parametrize("case", LOGS)
def test_sample_logs(case: str, cell: Path, refused: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    pattern, change, culprit = LOGS[case]
    (file,) = cell.glob(pattern)
    lines = file.read_bytes().split(b"\n")
    lines[1] = change(lines[1])
    file.write_bytes(b"\n".join(lines))
    results = cell.parents[4]
    for verb in (["status", f"paths.results={results}"], ["score", str(cell)], ["diff", str(cell), str(cell)]):
        refused(verb, str(file) if "remove it" not in culprit else "scores", culprit)
    assert main(["table", f"paths.results={results}"]) in (0, 2)  # tables need not read every field
    assert main(["run", *GRID, "limit=4", f"paths.results={results}"], FakeBackend()) == 1
    printed = capsys.readouterr().err
    assert culprit in printed and "Traceback" not in printed


CELLS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no scoring": (lambda c: c.pop("scoring"), "was made by another version"),
    "scoring leads elsewhere": (lambda c: c["scoring"].update(id="../../../x"), "made by another version (scoring.id"),
    "scoring from the root": (lambda c: c["scoring"].update(id="/etc/x"), "was made by another version (scoring.id"),
    "judge is a word": (lambda c: c["scoring"].update(judge="x"), "was made by another version"),
}  # fmt: skip


@pytest.mark.parametrize("case", CELLS)
def test_configurations_of_cells(case: str, cell: Path, refused: Callable[..., None]) -> None:
    change, culprit = CELLS[case]
    config = yaml.safe_load((cell / "config.yaml").read_text())
    change(config)
    (cell / "config.yaml").write_text(yaml.safe_dump(config))
    refused(["score", str(cell)], str(cell), culprit)
    refused(["table", f"paths.results={cell.parents[4]}"], str(cell), culprit)


@pytest.mark.parametrize("text", ["protocol: 1\n", "- 1\n", "a: [", b"\xff\xfe", ""], ids=repr)
def test_what_is_no_configuration_of_a_cell(text: str | bytes, cell: Path, refused: Callable[..., None]) -> None:
    (cell / "config.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(["score", str(cell)], str(cell), "is not the folder of a cell")
    refused(["table", f"paths.results={cell.parents[4]}"], "config.yaml: not the configuration of a run")


@pytest.mark.parametrize("text", ["nope", "[1]", '{"selected": "x", "complete": true}'])
def test_small_files_of_a_cell_are_written_anew(text: str, cell: Path) -> None:
    for name in ("summary.json", "environment.json"):
        (cell / name).write_text(text)
    results = f"paths.results={cell.parents[4]}"
    assert main(["status", results]) == 0
    assert main(["run", *GRID, "limit=5", results], FakeBackend()) == 0
    assert json.loads((cell / "summary.json").read_text())["n"] == 5
    assert any("versions" in str(code) for code in json.loads((cell / "environment.json").read_text()).values())
