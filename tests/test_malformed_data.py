"""Malformed pictures, data files, replies of judges and golden files: one line or one failed sample, no traceback.

Configurations, overrides and logs: test_malformed.py.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin

from harness.cli import main
from harness.golden.__main__ import main as golden
from harness.runs.log import read_log
from harness.runs.scores import ScoreSpec, read_scores
from tests.benchmarks.judge_server import Answer, completion, serve
from tests.runs.fake import FakeBackend


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *more: bytes) -> bytes:
    """A file of a hundred bytes that claims any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *more, chunk(b"IDAT", zlib.compress(b"\0")), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


NOISE = Image.effect_noise((64, 64), 90)
GOOD = saved(Image.new("RGB", (64, 64), "blue"))
PICTURES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "unreadable picture: cannot identify"),
    "text": (b"not a picture", "unreadable picture: cannot identify"),
    "a drawing": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unreadable picture: cannot identify"),
    "torn PNG": (saved(NOISE)[:900], "unreadable picture"),
    "torn JPEG": (saved(NOISE, "JPEG")[:900], "unreadable picture"),
    "checksum": (saved(NOISE).replace(b"IDAT", b"IDAX"), "unreadable picture"),
    "bomb": (png(40_000, 40_000), "exceeds limit"),
    "bomb below the limit of PIL": (png(17_000, 10_000), "unreadable picture"),
    "bomb of text": (
        png(8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(PngImagePlugin.MAX_TEXT_CHUNK + 9)))), "too large",
    ),
    "no width": (png(0, 8), "unreadable picture"),
    "line": (saved(Image.new("RGB", (4000, 2))), "aspect ratio"),
    "values without a white": (saved(Image.new("F", (8, 8)), "TIFF"), "mode F does not say which value is white"),
    "offsets beyond the end": (saved(NOISE, "TIFF")[:200], "unreadable picture"),
}  # fmt: skip
ODD = {
    "CMYK": saved(Image.new("CMYK", (64, 64)), "JPEG"),
    "16 bit": saved(Image.new("I;16", (64, 64), 40_000)),
    "palette with transparency": saved(Image.new("P", (64, 64)), transparency=0),
    "moving": saved(Image.new("RGB", (64, 64)), "GIF", save_all=True, append_images=[Image.new("RGB", (64, 64))]),
    "turned": saved(Image.new("RGB", (64, 32)), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"),
}  # fmt: skip


def questions(*pictures: Any, **other: Any) -> list[dict[str, Any]]:
    """MathVerse questions, one per picture."""
    return [
        {
            "sample_index": str(i), "problem_index": str(i), "problem_version": "Text Lite",
            "question": f"Question {i}?",
            "image": picture if isinstance(picture, dict) else {"bytes": picture, "path": None}, "answer": "2",
            "question_type": "free-form", "query_wo": f"Say {i}.", "query_cot": f"Think {i}.",
            "metadata": {"split": "testmini", "source": "s", "subject": "Plane Geometry", "subfield": "Angle"},
            "question_for_eval": f"Question {i}?", **other,
        }
        for i, picture in enumerate(pictures)
    ]  # fmt: skip


def written(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def asked(folder: Path, *pictures: Any, **other: Any) -> Path:
    return written(folder / "testmini.parquet", questions(*pictures, **other))


def grid(data: Path, results: Path) -> list[str]:
    return ["benchmark=mathverse", f"benchmark.data={data}", "executor.gpus=none", f"paths.results={results}"]


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What a tiny model makes of all of them between good ones, in their order."""
    folder = tmp_path_factory.mktemp("pictures")
    rows = questions(GOOD, *(data for data, _ in PICTURES.values()), *ODD.values(), GOOD)
    data = written(folder / "testmini.parquet", rows)
    assert main(["run", *grid(data, folder / "out"), "protocol.max_new_tokens=2"]) == 1
    (cell,) = folder.glob("out/runs/*/*/*/*")
    assert not (cell / "error.txt").exists()
    return sorted(read_log(cell).values(), key=lambda record: int(record["id"].partition("_")[0]))


@pytest.mark.parametrize("case", PICTURES)
def test_pictures(case: str, pictured: list[dict[str, Any]]) -> None:
    record = pictured[1 + [*PICTURES].index(case)]
    assert record["finish"] == "error" and PICTURES[case][1] in record["error"]
    assert len(record["error"]) < 400 and "\n" not in record["error"]


def test_good_and_odd_pictures_beside_them(pictured: list[dict[str, Any]]) -> None:
    good = [pictured[0], *pictured[1 + len(PICTURES) :]]
    assert len(good) == 2 + len(ODD) and not any(record["error"] for record in good)


def damaged(file: Path) -> Path:
    """The same file with its middle overwritten."""
    data = bytearray(file.read_bytes())
    data[4:-400] = bytes(len(data) - 404)
    file.write_bytes(data)
    return file


def other(file: Path, data: bytes) -> Path:
    file.write_bytes(data)
    return file


FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nothing": (lambda p: p / "gone.parquet", "gone.parquet does not exist"),
    "no parquet": (lambda p: other(p / "testmini.parquet", b"PAR1 not at all PAR1"), "testmini.parquet cannot be read"),
    "torn": (
        lambda p: other(p / "testmini.parquet", asked(p, GOOD).read_bytes()[:-9]),
        "testmini.parquet cannot be read",
    ),
    "overwritten": (lambda p: damaged(asked(p, GOOD)), "testmini.parquet cannot be read"),
    "no rows": (lambda p: written(p / "testmini.parquet", []), "testmini.parquet has no rows"),
    "column": (lambda p: written(p / "testmini.parquet", [{"question": "?"}]), "has no column 'sample_index'"),
    "type": (lambda p: asked(p, GOOD, question=[1]), "column 'question' is list, not text"),
    "answer": (lambda p: asked(p, GOOD, answer=""), "row 0 has no answer"),
    "picture elsewhere": (
        lambda p: asked(p, {"bytes": None, "path": "../../etc/passwd"}),
        "picture '../../etc/passwd' lies outside of",
    ),
    "picture from the root": (
        lambda p: asked(p, {"bytes": None, "path": "/etc/passwd"}),
        "picture '/etc/passwd' lies outside of",
    ),
    "picture with a zero byte": (
        lambda p: asked(p, {"bytes": None, "path": "a\0b"}), "picture 'a\\x00b' is not",
    ),
    "picture with a long name": (
        lambda p: asked(p, {"bytes": None, "path": "a" * 9999}), "File name too long",
    ),
    "picture that is not there": (
        lambda p: asked(p, {"bytes": None, "path": "b.png"}), "picture 'b.png' is not in",
    ),
    "split": (lambda p: written(p / "train.parquet", questions(GOOD)), "train.parquet is not of split 'testmini'"),
    "kind": (lambda p: other(p / "testmini.csv", b"a,b"), "testmini.csv is not one of .parquet"),
    "no gzip": (lambda p: other(p / "testmini.jsonl.gz", b"nope"), "testmini.jsonl.gz cannot be read"),
    "rows of JSON are numbers": (lambda p: other(p / "testmini.json", b"[1, 2]"), "testmini.json cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_parquet_files(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, culprit = FILES[case]
    data = make(tmp_path)
    assert main(["plan", *grid(data, tmp_path / "out")], FakeBackend()) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("vtpbench: ") and printed.count("\n") == 1 and culprit in printed, printed
    assert main(["check", *grid(data, tmp_path / "out")], FakeBackend()) in (1, 2)  # 1: a row of its table is not ok
    printed = "".join(capsys.readouterr())
    assert culprit in printed and "Traceback" not in printed


REPLIES: dict[str, tuple[Answer, str]] = {
    "page": (Answer("<html>sign in</html>"), "not a chat completion: <html>sign in</html>"),
    "nothing": (Answer(""), "not a chat completion"),
    "torn": (Answer('{"choices": [{"mess'), 'not a chat completion: {"choices"'),
    "deep": (Answer("[" * 100_000), "not a chat completion: [[["),
    "a list": (Answer([]), "not a chat completion: []"),
    "no choices": (Answer(completion("", choices=[])), "not a chat completion"),
    "choices are words": (Answer(completion("", choices=["1"])), "not a chat completion"),
    "no message": (Answer(completion("", choices=[{"text": "1"}])), "not a chat completion"),
    "no content": (Answer(completion(None)), "a reply without text"),
    "content is a list": (Answer(completion(["1"])), "a reply without text"),
    "refused": (Answer({"error": {"message": "no\nmore \x1b[31mcredit"}}, 402), "HTTP 402: no more"),
    "redirected": (Answer("", 302, {"Location": "ftp://elsewhere/"}), "no connection"),
    "late": (Answer(completion("1"), wait=1.5), "no answer within 0.5 s"),
}  # fmt: skip


@pytest.mark.parametrize("case", REPLIES)
def test_judge_replies(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer, culprit = REPLIES[case]
    data = written(tmp_path / "testmini.parquet", questions(GOOD))
    with serve(lambda calls: answer) as (url, _):
        judge = ["judge=openai_compatible", "judge.model=oracle", f"judge.base_url={url}", "judge.key_env=null"]
        judge += ["judge.retries=0", "judge.timeout=0.5"]
        assert main(["run", *grid(data, tmp_path / "out"), *judge], FakeBackend()) == 0
        assert "1 unjudged" in capsys.readouterr().err
        (cell,) = tmp_path.glob("out/runs/*/*/*/*")
        assert main(["score", str(cell), *judge]) == 1
        printed = capsys.readouterr()
    (line,) = read_scores(cell, ScoreSpec.read(cell).stem).values()
    assert culprit in line["error"] and "\n" not in line["error"] and line["value"] is None
    assert culprit.partition(":")[0] in printed.out and "Traceback" not in printed.err
    assert "\x1b" not in printed.out + printed.err


def features(**changes: Any) -> dict[str, Any]:
    """What a file of DivPrune holds, of 8 tokens, but for the changes."""
    rng = np.random.default_rng(0)
    arrays = {"in_features": rng.normal(size=(8, 4)).astype(np.float32), "in_ratio": np.array(0.5),
              "out_keep_index": np.arange(4)}  # fmt: skip
    return {key: value for key, value in {**arrays, **changes}.items() if value is not ...}


def vectors(name: str = "DivPrune_seed0_budget4.npz", **changes: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        np.savez(folder / name, **features(**changes))
        return folder / name

    return make


def torn(folder: Path) -> Path:
    file = vectors()(folder)
    file.write_bytes(file.read_bytes()[:300])
    return file


GOLDEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "not there": (lambda p: p / "FastV_seed0_budget4.npz", "no such file"),
    "a folder": (lambda p: (p / "FastV_seed0_budget4.npz").mkdir() or p / "FastV_seed0_budget4.npz", "Is a directory"),
    "text": (lambda p: other(p / "FastV_seed0_budget4.npz", b"no zip"), "UnpicklingError|pickled|ValueError"),
    "torn": (torn, "BadZipFile"),
    "method": (vectors("Nope_seed0_budget4.npz"), "unknown method 'Nope'"),
    "objects": (vectors(in_x=np.array([{"a": 1}], dtype=object)), "Object arrays cannot be loaded"),
    "words": (vectors(in_x=np.array(["a"])), "in_x holds no integers or real numbers"),
    "not finite": (vectors(in_x=np.array([np.nan])), "in_x holds values that are not finite"),
    "a vector for a matrix": (vectors(in_features=np.ones(8)), "Error"),
    "indices are no integers": (vectors(out_select_order=np.ones(4)), "out_select_order does not hold integers"),
    "nothing in it": (vectors(in_features=..., in_ratio=..., out_keep_index=...), "is missing"),
}  # fmt: skip


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_files(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, culprit = GOLDEN[case]
    file = make(tmp_path)
    assert golden([str(file)]) == 1
    printed = capsys.readouterr()
    verdict = json.loads(printed.out)
    assert printed.out.count("\n") == 1 and verdict["file"] == str(file) and not verdict["ok"] and not printed.err
    assert any(text in verdict["reason"] for text in culprit.split("|")), verdict["reason"]
