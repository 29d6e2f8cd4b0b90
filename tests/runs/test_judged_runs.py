"""A benchmark that only a judge can score, from the run to the verdict, with a real server on this machine."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from harness.cli import main
from harness.runs.scores import ScoreSpec, read_scored
from tests.benchmarks.judge_server import Answer, completion, serve
from tests.runs.fake import FakeBackend

KEY = "sk-test-1234567890"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six MathVerse questions."""
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), "blue").save(buffer, "PNG")
    rows = [
        {
            "sample_index": str(i), "problem_index": str(i // 2), "problem_version": "Text Lite",
            "question": f"Question {i}?", "image": {"bytes": buffer.getvalue(), "path": "a.png"}, "answer": "2",
            "question_type": "free-form", "query_wo": f"Say {i}.", "query_cot": f"Think {i}.",
            "metadata": {"split": "testmini", "source": "s", "subject": "Plane Geometry", "subfield": "Angle"},
            "question_for_eval": f"Question {i}?",
        }
        for i in range(6)
    ]  # fmt: skip
    folder = tmp_path / "data"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "testmini.parquet")
    return folder


@pytest.fixture
def base(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.setenv("VTPBENCH_CACHE", str(tmp_path / "cache"))
    return ["benchmark=mathverse", f"benchmark.data={data}", "executor.gpus=none", f"paths.results={tmp_path / 'out'}"]


def judge(url: str) -> list[str]:
    return ["judge=openai_compatible", "judge.model=oracle", f"judge.base_url={url}", "judge.key_env=JUDGE_KEY",
            "judge.retries=0", "judge.timeout=5"]  # fmt: skip


def cell(tmp_path: Path) -> Path:
    (file,) = tmp_path.glob("out/runs/*/*/*/*/summary.json")
    return file.parent


def test_unreachable_is_unjudged_and_judged_later_without_generating(base, tmp_path, capsys):
    backend = FakeBackend()
    assert main(["run", *base, *judge("http://127.0.0.1:9/v1")], backend) == 0
    summary = json.loads((cell(tmp_path) / "summary.json").read_text())
    assert (summary["n"], summary["unjudged"], summary["accuracy"]) == (6, 6, None)
    assert 0 <= summary["lenient"] <= 1
    assert "6 unjudged" in capsys.readouterr().err
    with serve(lambda calls: Answer(completion("1"))) as (url, calls):
        assert main(["plan", *base, *judge(url), "judge.prompt_price=2", "judge.completion_price=5"], backend) == 0
        total = " ".join(capsys.readouterr().out.split())  # whatever the width of the terminal
        assert f"12 judge calls, {12 * (800 * 2 + 200 * 5) / 1e6:.2f} USD" in total
        assert not calls
        assert main(["score", str(cell(tmp_path)), *judge(url)]) == 0
        asked = len(calls)
        assert 6 <= asked <= 12 and all(call.headers["authorization"] == f"Bearer {KEY}" for call in calls)
        assert main(["run", *base, *judge(url)], backend) == 0
        assert len(calls) == asked and len(backend.engines) == 1  # nothing generated, nothing asked again
        assert main(["run", *base, "limit=6"], backend) == 0  # without the judge its verdicts stay
    summary = json.loads((cell(tmp_path) / "summary.json").read_text())
    assert summary["unjudged"] == 0 and summary["accuracy"] is not None
    records = read_scored(cell(tmp_path), ScoreSpec.read(cell(tmp_path)))
    assert all(r["correct"] is not None and r["rule"] == "mathverse.vlmevalkit" for r in records.values())


def test_the_key_is_nowhere_in_the_results(base, tmp_path, capsys):
    with serve(lambda calls: Answer({"error": f"bad key {calls[-1].headers['authorization']}"}, 401)) as (url, _):
        assert main(["run", *base, *judge(url)], FakeBackend()) == 0
    out = capsys.readouterr()
    assert KEY not in out.out + out.err
    for file in (tmp_path / "out").rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file


def test_a_missing_key_is_bad_input(base, monkeypatch, capsys):
    monkeypatch.delenv("JUDGE_KEY")
    assert main(["run", *base, *judge("http://127.0.0.1:9/v1")], FakeBackend()) == 2
    assert "JUDGE_KEY is not set" in capsys.readouterr().err


def test_a_bundle_of_judged_replies(base, data, tmp_path, capsys):
    """Neither key nor address gets in; verdicts are covered but not judged again, and both is said."""
    with serve(lambda calls: Answer(completion("1"))) as (url, _):
        assert main(["run", *base, *judge(url)], FakeBackend()) == 0
    file = tmp_path / "b.zip"
    assert main(["submit", str(cell(tmp_path)), f"to={file}"]) == 0
    with zipfile.ZipFile(file) as archive:
        together = b"".join(map(archive.read, archive.namelist()))
    for secret in (KEY, "JUDGE_KEY", url, str(tmp_path)):
        assert secret.encode() not in together
    capsys.readouterr()
    assert main(["verify", str(file)]) == 0
    said = capsys.readouterr().out
    assert "asks a judge: every reply has its verdict, none was judged again" in said
    assert "the data of mathverse is not on this machine" in said
    assert main(["verify", str(file), f"benchmark.data={data}"]) == 0
    assert "not checked: benchmark" not in capsys.readouterr().out
