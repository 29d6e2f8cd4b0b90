"""Small real samples of the benchmarks run from pictures to summary, through the command line, with the tiny model."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from harness.benchmarks.sets import SETS
from harness.cli import main
from harness.runs.log import read_log

REALDATA = Path(os.environ.get("REALDATA_DIR", Path(__file__).parents[3] / "shared" / "realdata"))
FOUND = [
    (name, folder)
    for folder in sorted(REALDATA.glob("*"))
    for name in SETS
    if folder.is_dir()
    and (folder.name.startswith(name) or name.startswith(folder.name))
    and (name, folder.name) != ("mmmu", "mmmu_pro")
]
MULTIPLE = {"mmmu_pro_standard"}
TINY = ("model.max_pixels=16384", "protocol.max_new_tokens=4", "executor.gpus=none")


def test_real_samples_are_there() -> None:
    if not REALDATA.is_dir():
        pytest.skip(f"no real samples at {REALDATA} (REALDATA_DIR)")
    assert FOUND


@pytest.mark.parametrize(("name", "folder"), FOUND, ids=[f"{name}-{folder.name}" for name, folder in FOUND])
def test_a_real_sample_gives_a_summary(name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    command = ["run", f"benchmark={name}", f"benchmark.data={folder}", "pruner=none,fastv", "keep=1/3", *TINY]
    assert main([*command, f"paths.results={tmp_path}"]) == 0
    capsys.readouterr()
    cells = sorted(tmp_path.glob(f"runs/tiny_qwen3_vl/{name}/*/*"))
    assert len(cells) == 2
    for cell in cells:
        summary = json.loads((cell / "summary.json").read_text())
        records = read_log(cell)
        assert summary["complete"] and summary["n"] == len(records) > 0 and not summary["failures"]
        assert all(r["visual_tokens"] > 0 or r["ret_prefill"] is None for r in records.values())
        assert all(m["n"] <= summary["n"] for m in summary["metrics"].values())
    if name in MULTIPLE:
        alone = [r["visual_tokens"] for r in records.values()]
        assert max(alone) > 16  # more than the limit of one picture: several pictures in a question
    assert main(["table", f"paths.results={tmp_path}", "to=md"]) == 0
    table = capsys.readouterr().out
    assert name in table and "fastv" in table


def test_incomplete_groups_are_said_not_divided_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [folder for name, folder in FOUND if name == "wemath"]
    if not folders:
        pytest.skip(f"no We-Math sample in {REALDATA} (REALDATA_DIR)")
    grid = ["benchmark=wemath", f"benchmark.data={folders[0]}", "limit=8", "subset.mode=first", *TINY]
    assert main(["run", *grid, f"paths.results={tmp_path}"]) == 0
    (file,) = tmp_path.glob("runs/*/*/*/*/summary.json")
    whole = json.loads(file.read_text())["metrics"]
    assert whole["wemath.strict"]["n"] < 525 and 0 <= whole["wemath.strict"]["value"] <= 1
    (log,) = file.parent.glob("samples-*.jsonl")
    log.write_text("".join(line + "\n" for line in log.read_text().splitlines()[:-1]))  # a problem loses a step
    assert main(["score", str(file.parent)]) == 0
    part = json.loads(file.read_text())["metrics"]["wemath.strict"]
    assert part["n"] == whole["wemath.strict"]["n"] - 1 and "incomplete" in part["note"]
