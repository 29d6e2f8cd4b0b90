"""`vtpbench submit` and `vtpbench verify`: a round trip, what never gets in, and every way to tamper with a bundle."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cli import main
from harness.runs.bundle.pack import without_places
from harness.runs.scores import reply_of
from harness.tables import leaderboard

Files = dict[str, bytes]
Edit = Callable[[Files], None]


@pytest.fixture
def runs(run: Any) -> Path:
    """Two cells of 12 samples, and their results folder."""
    outcomes = run("pruner=none,fastv", "keep=1/3", "limit=12")
    found: Path = outcomes[0].cell.folder.parents[4]
    return found


@pytest.fixture
def bundle(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    file = tmp_path / "b.zip"
    assert main(["submit", str(runs / "runs"), f"to={file}"]) == 0
    capsys.readouterr()
    return file


def read(bundle: Path) -> Files:
    with zipfile.ZipFile(bundle) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(bundle: Path, files: Files) -> None:
    with zipfile.ZipFile(bundle, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def stated_anew(files: Files) -> None:
    """The manifest as a careful cheat would write it: hashes, sizes and numbers of samples fit."""
    manifest = json.loads(files["manifest.json"])
    manifest["files"] = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        for name, content in files.items()
        if name != "manifest.json"
    }
    files["manifest.json"] = json.dumps(manifest).encode()


def named(files: Files, part: str) -> str:
    """The name of FastV's file."""
    return next(name for name in files if "/fastv@0.333/" in name and part in name)


def lines(files: Files, part: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in files[named(files, part)].splitlines()]


def put(files: Files, part: str, found: list[dict[str, Any]]) -> None:
    files[named(files, part)] = "".join(json.dumps(line) + "\n" for line in found).encode()


def change(files: Files, part: str, index: int = 0, **values: Any) -> None:
    found = lines(files, part)
    found[index] |= values
    put(files, part, found)


def config(files: Files, edit: Callable[[dict[str, Any]], object]) -> None:
    plain = yaml.safe_load(files[named(files, "config.yaml")])
    edit(plain)
    files[named(files, "config.yaml")] = yaml.safe_dump(plain).encode()


def summary(files: Files, **values: Any) -> None:
    name = named(files, "summary.json")
    files[name] = json.dumps(json.loads(files[name]) | values).encode()


def checked(bundle: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str]:
    code = main(["verify", str(bundle), *more])
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    return code, printed.err if code == 2 else printed.out


def test_round_trip(runs: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody else's tables are ours; nothing is written over."""
    code, said = checked(bundle, capsys, f"to={tmp_path / 'theirs'}")
    assert code == 0 and "failed:" not in said and "not checked:" not in said and "2 cells in" in said
    assert hashlib.sha256(bundle.read_bytes()).hexdigest() in said
    assert leaderboard(tmp_path / "theirs").to_markdown() == leaderboard(runs).to_markdown()
    assert not list((tmp_path / "theirs").glob(".*"))
    code, said = checked(bundle, capsys, f"to={tmp_path / 'theirs'}")
    assert code == 2 and "is there already: nothing was unpacked" in said and said.count("\n") == 1


def test_equal_cells_are_equal_bytes(runs: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(runs, tmp_path / "elsewhere" / "other")
    again = tmp_path / "again.zip"
    assert main(["submit", str(tmp_path / "elsewhere" / "other" / "runs"), f"to={again}"]) == 0
    assert again.read_bytes() == bundle.read_bytes()


def test_nothing_tells_whose_it_is(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither host, nor folders, nor accounts and addresses, not even in what an error said."""
    monkeypatch.setattr(socket, "gethostname", lambda: "whose-host")
    private = ["logger.project=whose-project", "judge.key_env=WHOSE_KEY", "engine.feature_cache_folder=/home/whose/x"]
    (outcome,) = run("pruner=none", "limit=4", *private)
    (log,) = outcome.cell.folder.glob("samples-*.jsonl")
    first, *rest = log.read_text().splitlines()
    error = {"finish": "error", "error": "OSError: no file /home/whose/pictures/a.png at http://whose.example:80/v1"}
    log.write_text("\n".join([json.dumps(json.loads(first) | error), *rest]) + "\n")
    for file in outcome.cell.folder.glob("scores/*"):
        file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    assert main(["score", str(outcome.cell.folder)]) == 0
    file = outcome.cell.folder / "summary.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"first_error": error["error"]}))
    assert main(["submit", str(outcome.cell.folder), f"to={tmp_path / 'b.zip'}"]) == 0
    files = read(tmp_path / "b.zip")
    for name, content in files.items():
        assert b"whose" not in content.lower() and "whose" not in name, name
        assert str(tmp_path).encode() not in content
    assert b"no file a.png at [address]" in b"".join(files.values())


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("no file /a/b/c.png", "no file c.png"), ("'~/x/y.py'", "'y.py'"), ("1/2 of 3/4", "1/2 of 3/4"),
        ("C:\\Users\\me\\x.txt", "x.txt"), ("at https://a.b:1/c: HTTP 500", "at [address] HTTP 500"),
    ],
)  # fmt: skip
def test_places_in_messages(text: str, left: str) -> None:
    assert without_places(text) == left


def test_what_is_not_bundled(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run("pruner=none", "limit=4")[0].cell.folder
    log = next(folder.glob("samples-*.jsonl"))
    plain = yaml.safe_load((folder / "config.yaml").read_text())
    capsys.readouterr()

    def refused(*arguments: str) -> str:
        code, error = main(["submit", *arguments, f"to={tmp_path / 'b.zip'}"]), capsys.readouterr().err
        assert code == 2 and error.count("\n") == 1 and not list(tmp_path.glob("*.zip*"))
        return error

    assert "needs cell folders" in refused()
    assert "none lies below it" in refused(str(tmp_path / "nothing"))
    assert "paths must be keep" in refused(str(folder), "paths=yes")
    local = plain | {"identity": plain["identity"] | {"model": plain["identity"]["model"] | {"path": "/my/model"}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(local))
    assert "model.path is a path of this machine" in refused(str(folder))
    assert "identity" in refused(str(folder), "paths=keep")  # shared, but the hash is of another one
    (folder / "config.yaml").write_text(yaml.safe_dump(plain))
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    assert "samples" in refused(str(folder)) or "verdicts" in refused(str(folder))
    (folder / "summary.json").write_text('{"cell": "../../../x/y/z/..", "complete": true}')
    assert "is no file of a bundle" in refused(str(folder)) or "must be a short name" in refused(str(folder))
    (folder / "summary.json").write_text("{}")
    assert "is not finished" in refused(str(folder))


def _without_last_sample(files: Files) -> None:
    put(files, "samples-", lines(files, "samples-")[:-1])
    put(files, "scores/", lines(files, "scores/")[:-1])


def _other_reply(files: Files) -> None:
    """A wrong reply put right, with the digest of a verdict that says so."""
    index = next(i for i, line in enumerate(lines(files, "scores/")) if not line["correct"])
    change(files, "samples-", index, text=f"answer {lines(files, 'samples-')[index]['answer']}")
    reply = reply_of(lines(files, "samples-")[index])[2]
    change(files, "scores/", index, reply=reply, correct=True, value=1.0, lenient=1.0)


def _all_right(files: Files) -> None:
    """Answers that fit the replies, in samples and verdicts alike."""
    for i, line in enumerate(lines(files, "samples-")):
        change(files, "samples-", i, answer=line["text"])
        change(files, "scores/", i, correct=True, value=1.0, lenient=1.0, unparsed=False, extracted=line["text"])


def _flip(files: Files) -> None:
    line = lines(files, "scores/")[0]
    change(files, "scores/", 0, correct=not line["correct"], value=1.0 - line["value"])


def _other_limit(files: Files) -> None:
    config(files, lambda plain: plain.update(limit=13))


def _cell_elsewhere(files: Files) -> None:
    for name in [name for name in files if "/fastv@0.333/" in name]:
        files[name.replace("fastv@0.333", "fastv@0.111")] = files.pop(name)
    manifest = json.loads(files["manifest.json"])
    manifest["cells"] = {k.replace("fastv@0.333", "fastv@0.111"): v for k, v in manifest["cells"].items()}
    files["manifest.json"] = json.dumps(manifest).encode()


TAMPERED: dict[str, tuple[Edit, str]] = {
    "a reply": (lambda f: change(f, "samples-", text="7"), "verdicts: a verdict on sample"),
    "a reply and its verdict": (_other_reply, "summary: accuracy is"),
    "answers that fit": (_all_right, "benchmark: answer of sample"),
    "a verdict": (_flip, "verdicts: 1 verdicts are not those of glyph.lookup"),
    "a verdict less": (lambda f: put(f, "scores/", lines(f, "scores/")[1:]), "has no verdict on its reply"),
    "a verdict more": (lambda f: put(f, "scores/", lines(f, "scores/") * 2), "is there twice"),
    "the summary": (lambda f: summary(f, accuracy=0.99), "summary: accuracy is 0.99"),
    "a number more": (lambda f: summary(f, better=1), "summary: better is 1"),
    "cost": (lambda f: change(f, "samples-", prefill_seconds=0.001), "summary: seconds is"),
    "unfinished": (lambda f: summary(f, complete=False), "samples: it is not complete"),
    "a sample less": (_without_last_sample, "samples: the number of samples is not one and the same"),
    "a sample twice": (lambda f: put(f, "samples-", lines(f, "samples-") * 2), "stands in it twice"),
    "a sample of others": (lambda f: change(f, "samples-", id="99999"), "verdicts: a verdict on sample"),
    "another choice": (_other_limit, "is not what limit=13 chooses"),
    "the budget": (lambda f: config(f, lambda plain: plain.update(keep=0.1)), "identity: the folder's name"),
    "the hash": (lambda f: config(f, lambda plain: plain.update(hash="0" * 64)), "identity: the hash"),
    "the method": (
        lambda f: config(f, lambda plain: plain["identity"]["pruner"].update(layer=3)), "identity: the hash",
    ),
    "the model": (
        lambda f: config(f, lambda plain: plain["model"].update(dtype="bfloat16")), "identity: model in config.yaml",
    ),
    "the folder": (_cell_elsewhere, "identity: the folder's name"),
    "the environment": (lambda f: f.update({named(f, "environment"): b"{}"}), "environment.json lacks the code"),
    "a line": (lambda f: f.update({named(f, "samples-"): b"{\n"}), "line 1 is damaged"),
    "deep lines": (lambda f: f.update({named(f, "samples-"): b"[" * 100_000 + b"\n"}), "line 1 is damaged"),
    "no YAML": (lambda f: f.update({named(f, "config"): b"a: ["}), "form: "),
    "half a YAML": (lambda f: f.update({named(f, "config"): b"identity: {}\nmodel: {}\n"}), "benchmark is missing"),
    "deep YAML": (lambda f: f.update({named(f, "config"): b"[" * 100_000}), "50 groups inside each other"),
    "YAML of aliases": (lambda f: f.update({named(f, "config"): b"a: &a [1]\nb: [*a, *a]\n"}), "aliases, or more"),
    "YAML of Python": (
        lambda f: f.update({named(f, "config"): b"a: !!python/object/apply:os.getcwd []\n"}), "python/object/apply",
    ),
    "a rule": (lambda f: config(f, lambda p: p["scoring"].update(rule="x")), "unknown rule 'x'"),
    "a path as scoring": (lambda f: config(f, lambda p: p["scoring"].update(id="../x")), "scoring.id '../x'"),
    "a huge number": (lambda f: summary(f, seconds=10**400), "summary: "),
}  # fmt: skip


@pytest.mark.parametrize("case", TAMPERED)
def test_tampering_is_found(case: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the hashes alone; and if those were made to fit, by what they cannot hide. Nothing of it is unpacked."""
    edit, why = TAMPERED[case]
    files = read(bundle)
    before = dict(files)
    edit(files)
    assert files != before
    write(bundle, files)
    code, said = checked(bundle, capsys)
    assert code == 1 and "failed: files: " in said
    stated_anew(files)
    write(bundle, files)
    code, said = checked(bundle, capsys, f"to={tmp_path / 'theirs'}")
    (line, *_) = [line for line in said.splitlines() if line.startswith("failed: ") and why in line] or [said]
    assert code == 1 and why in line and "fastv@" in line and not (tmp_path / "theirs" / "runs").exists()


def test_a_class_of_its_own_is_not_imported(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = read(bundle)
    config(files, lambda plain: plain["benchmark"].update(_target_="antigravity.X"))
    stated_anew(files)
    write(bundle, files)
    code, said = checked(bundle, capsys)
    assert code == 0 and "not checked: benchmark: antigravity.X is a class of its own" in said


def test_files_more_and_less(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = read(bundle)
    name = named(files, "summary.json")
    write(bundle, {key: value for key, value in files.items() if key != name})
    code, said = checked(bundle, capsys)
    assert code == 1 and f"failed: files: {name} is missing" in said
    more = name.replace("summary.json", "scores/other-bundle-0.jsonl")
    write(bundle, files | {more: b""})
    code, said = checked(bundle, capsys)
    assert code == 1 and f"failed: files: {more} is not in manifest.json" in said
