"""Golden vectors of official implementations: every file of a known method, and what the checker says of bad files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from harness.golden import METHODS, check_file, method_of
from harness.golden.__main__ import main

ROOT = Path(__file__).parents[1]
FOLDER = Path(os.environ.get("GOLDEN_DIR") or ROOT.parent / "shared" / "golden")
FILES = sorted(FOLDER.glob("*.npz"))
needs_files = pytest.mark.skipif(not FILES, reason=f"no golden vectors in {FOLDER} (GOLDEN_DIR names another folder)")


@pytest.mark.parametrize("file", FILES or [pytest.param(FOLDER, marks=needs_files)], ids=lambda file: file.stem)
def test_agrees_with_the_official_code(file: Path) -> None:
    verdict = check_file(file)
    assert verdict["ok"], verdict
    assert verdict["max_error"] <= 1e-4
    assert "not compared" not in verdict.get("note", "")


def one(method: str) -> Path:
    found = next((file for file in FILES if method_of(file) == method), None)
    return found or pytest.skip(f"no golden vector of {method} in {FOLDER}")


def verdicts(capsys: pytest.CaptureFixture[str], *files: Path) -> tuple[int, list[dict[str, object]]]:
    code = main([str(file) for file in files])
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def tampered(file: Path, folder: Path, **changes: object) -> Path:
    """A copy with other arrays; None leaves one out."""
    arrays = {**np.load(file), **changes}
    np.savez(folder / file.name, **{key: np.asarray(value) for key, value in arrays.items() if value is not None})
    return folder / file.name


@needs_files
def test_program() -> None:
    """As a program: one JSON object per line and nothing else, exit code 0."""
    files = [str(one("DivPrune")), str(one("VisionZip"))]
    command = [sys.executable, "-m", "harness.golden", *files]
    out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    lines = [json.loads(line) for line in out.stdout.splitlines()]
    assert [(line["file"], line["method"], line["ok"]) for line in lines] == [
        (files[0], "DivPrune", True), (files[1], "VisionZip", True),
    ]  # fmt: skip
    assert lines[0]["keys"] == ["out_select_order", "out_keep_index"] and lines[0]["max_error"] == 0


@needs_files
@pytest.mark.parametrize("method", [m for m in METHODS if m != "E2E_weights"])
def test_finds_every_difference(method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each output that is compared, changed in one entry."""
    file = one(method)
    if method.startswith("E2E"):
        shutil.copy(FOLDER / "E2E_weights.npz", tmp_path)
    arrays = np.load(file)
    for key in check_file(file)["keys"]:
        value = arrays[key].copy()
        value.flat[-1] += 1 if value.dtype.kind == "i" else 1e-3
        code, (verdict,) = verdicts(capsys, tampered(file, tmp_path, **{key: value}))
        assert code == 1 and not verdict["ok"] and str(verdict["reason"]).startswith(key)


@needs_files
def test_refuses_bad_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line with a reason for each, never a traceback; the good file among them is still checked."""
    good, e2e = one("FastV"), one("E2E_baseline")
    (tmp_path / "cut").mkdir()
    cut = tmp_path / "cut" / good.name
    cut.write_bytes(good.read_bytes()[:-1000])
    (tmp_path / "hit").mkdir()
    hit, data = tmp_path / "hit" / good.name, bytearray(good.read_bytes())
    data[len(data) // 2] ^= 255
    hit.write_bytes(data)
    (tmp_path / "empty").mkdir()
    empty = tmp_path / "empty" / good.name
    empty.write_bytes(b"")
    bad = {
        tampered(good, tmp_path, out_keep_index=None): "out_keep_index is missing",
        tampered(one("DivPrune"), tmp_path, in_features=None): "in_features is missing",
        tampered(one("VisionZip"), tmp_path, in_contextual=[1, 2]): "",
        tampered(one("VisionZipQwen"), tmp_path, out_embeddings=np.zeros((3, 3), np.float32)): "shape",
        tampered(one("VisionZipNeXT"), tmp_path, out_sequence=np.load(one("VisionZipNeXT"))["out_sequence"] * np.nan):
            "nan",
        shutil.copy(e2e, tmp_path / e2e.name): "E2E_weights.npz is not beside the file",
        tampered(one("FitPrune"), tmp_path, in_attention=np.load(one("FitPrune"))["in_attention"] * np.nan):
            "in_attention holds values that are not finite",
        cut: "", hit: "", empty: "",
        tmp_path / "FastV_seed9_budget9.npz": "no such file",
        tmp_path / "Unheard_seed0_budget1.npz": "unknown method 'Unheard'",
        tmp_path / "cut": "unknown method",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GOLDEN_DIR", raising=False)
        code, lines = verdicts(capsys, *bad, good)
    assert code == 1 and [line["ok"] for line in lines] == [False] * len(bad) + [True]
    for line, reason in zip(lines, bad.values(), strict=False):
        assert reason in str(line["reason"]) and line["reason"] and "\n" not in str(line["reason"]), line


def test_needs_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([])
    assert "FILE" in capsys.readouterr().err
