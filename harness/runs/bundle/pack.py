"""Writing a bundle: equal cells give equal bytes, and nothing in them says whose machine made them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from harness.runs.bundle.manifest import FORMAT, MANIFEST, SAMPLES, WRITER, File, Manifest, Stated, cell_of
from harness.runs.errors import InputError
from harness.runs.log import digest, read_config, read_json, read_log
from harness.runs.overview import read_summary
from harness.runs.scores import ScoreSpec, read_scores, reply_of
from harness.runs.typed import flatten

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every file in a bundle."""
AWAY: dict[str, Any] = {
    "executor": {"name": "local"}, "logger": {"name": "none"}, "judge": {"name": "none"}, "paths": {},
}  # fmt: skip
"""Groups of a configuration that tell of a machine and nothing of its results: addresses, accounts, folders. Who
judged stands under `scoring`."""
_FOLDERS = re.compile(r"(?<![\w.:/])(?:~|file://|[A-Za-z]:)?[/\\](?:[^/\\\s'\":,;]+[/\\])*")
_ADDRESS = re.compile(r"\bhttps?://[^\s'\",;)]+")


def pack(folders: Sequence[Path], out: Path, *, paths: bool = False) -> Manifest:
    """Write finished cells as one file.

    Args:
        paths: whether a local path in a cell's identity, which cannot be taken out of it, may be shared.

    Raises:
        InputError: a cell is not finished, is there twice, or says a local path.
        OSError: `out` cannot be written.
    """
    with TemporaryDirectory() as place:
        root = Path(place)
        cells: dict[str, Stated] = {}
        for folder in folders:
            name, stated = _lay_out(folder, root, paths)
            if cells.setdefault(name, stated) is not stated:
                raise InputError(f"{folder} is a second {name}")
        names = sorted(file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file())
        manifest = Manifest(FORMAT, version("vtpbench"), {name: _file(root / name) for name in names}, cells)
        (root / MANIFEST).write_text(manifest.text())
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in [MANIFEST, *names]:
                entry = zipfile.ZipInfo(name, EPOCH)
                entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, 0o100644 << 16
                with open(root / name, "rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                    shutil.copyfileobj(source, target)
    return manifest


def sha256(path: Path) -> str:
    """Of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file(path: Path) -> File:
    return File(sha256(path), path.stat().st_size)


def _lay_out(folder: Path, root: Path, paths: bool) -> tuple[str, Stated]:
    """Write a cell's files below `root`; returns its name and what is stated of it."""
    config, summary = read_config(folder), read_summary(folder / "summary.json")
    if not summary.get("complete"):
        raise InputError(f"{folder} is not finished: the same run command finishes it")
    identity, name = config["identity"], str(summary.get("cell"))
    cell_of(f"cells/{name}/summary.json")  # it becomes a folder
    if not paths and (local := [key for key, value in flatten(identity) if is_local(value)]):
        raise InputError(
            f"{folder}: {local[0]} is a path of this machine and stands in the cell's identity, which cannot leave it "
            "out: paths=keep shares it"
        )
    spec, records = ScoreSpec.read(folder, config), read_log(folder).values()  # resampling goes by their order
    scores = read_scores(folder, spec.stem)
    verdicts = [scores[reply_of(record)] for record in records if reply_of(record) in scores]
    known = read_json(folder / "environment.json")
    cell = root / "cells" / name
    try:
        (cell / "scores").mkdir(parents=True)
    except FileExistsError:
        raise InputError(f"{folder} is a second {name}") from None
    (cell / "config.yaml").write_text(yaml.safe_dump(_config(config), sort_keys=False))
    environment = {code: known[code] for code in sorted({record["code"] for record in records}) if code in known}
    (cell / "environment.json").write_text(json.dumps(environment, indent=2) + "\n")
    (cell / "summary.json").write_text(json.dumps(_said(summary, "first_error"), indent=2) + "\n")
    _write_lines(cell / SAMPLES, (_said(record, "error") for record in records))
    _write_lines(cell / "scores" / f"{spec.stem}-{WRITER}.jsonl", map(_verdict, verdicts))
    return name, Stated(digest(identity), identity, len(records))


def _write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    with open(path, "w") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def _verdict(line: Mapping[str, Any]) -> dict[str, Any]:
    exchanges = [_said(exchange, "error") for exchange in line.get("judge", [])]
    return _said(line, "error") | {"judge": exchanges}


def _said(line: Mapping[str, Any], key: str) -> dict[str, Any]:
    """With the paths and addresses out of the message of an error."""
    return {**line, key: without_places(line[key])} if isinstance(line.get(key), str) else dict(line)


def _config(config: dict[str, Any]) -> dict[str, Any]:
    """Local paths as the names of what they lead to, unless the identity says them."""
    shared = {value for _, value in flatten(config["identity"]) if isinstance(value, str)}
    plain: dict[str, Any] = _named(config | AWAY, shared)
    return plain


def _named(value: Any, shared: set[str]) -> Any:
    if isinstance(value, dict):
        return {key: _named(inner, shared) for key, inner in value.items()}
    if isinstance(value, list):
        return [_named(inner, shared) for inner in value]
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1] if is_local(value) and value not in shared else value


def is_local(value: Any) -> bool:
    """Whether a value is a path that says where somebody keeps files."""
    return isinstance(value, str) and bool(re.match(r"[/~\\]|[A-Za-z]:[/\\]|file:", value))


def without_places(text: str) -> str:
    """Without folders and addresses."""
    return _FOLDERS.sub("", _ADDRESS.sub("[address]", text))
