"""Archives that must not be unpacked: one line says why, and nothing is written outside of the place they get."""

from __future__ import annotations

import json
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.runs.bundle import unpack
from tests.runs.test_bundle import read, stated_anew, write

CELL = "cells/m/b/p/greedy-00000000"


@pytest.fixture
def bundle(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A cell of four samples."""
    file = tmp_path / "b.zip"
    assert main(["submit", str(run("pruner=none", "limit=4")[0].cell.folder), f"to={file}"]) == 0
    capsys.readouterr()
    return file


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[Path, str], None]:
    """A bundle that ends in code 2 and one line, and leaves nothing behind."""

    def check(bundle: Path, why: str) -> None:
        home = tmp_path / "deep" / "home"
        before = {*tmp_path.rglob("*")}
        code, printed = main(["verify", str(bundle), f"to={home}"]), capsys.readouterr()
        assert code == 2 and why in printed.err and printed.err.count("\n") == 1, printed.err
        assert printed.err.strip().isprintable()
        assert {*tmp_path.rglob("*")} - before <= {home, home.parent}

    return check


@pytest.mark.parametrize(
    "name",
    [
        "../evil", "/etc/passwd", f"{CELL}/../../../../../evil", "cells/../b/p/d/config.yaml", "C:\\evil", "evil",
        f"{CELL}/evil.py", f"{CELL}/scores/../config.yaml", f"{CELL}/scores/..-bundle-0.jsonl/x",
        "cells//b/p/d/config.yaml",
        "cells/a\\..\\b/b/p/d/config.yaml", "cells/m/b/p\x1b[2J/d/config.yaml", f"{CELL}/", "cells/m/b/./d/config.yaml",
        f"cells/m/b/{'x' * 200}/d/config.yaml", "cells/m/b/p/d/e/config.yaml",
    ],
)  # fmt: skip
def test_names(name: str, bundle: Path, refused: Callable[[Path, str], None]) -> None:
    files = read(bundle) | {name: b"x"}
    stated_anew(files)
    write(bundle, files)
    refused(bundle, "b.zip: ")


def test_links(bundle: Path, refused: Callable[[Path, str], None]) -> None:
    entry = zipfile.ZipInfo(f"{CELL}/config.yaml")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(bundle, "a") as archive:
        archive.writestr(entry, "/etc/passwd")
    refused(bundle, "is a link or a device")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_twice(bundle: Path, refused: Callable[[Path, str], None]) -> None:
    with zipfile.ZipFile(bundle, "a") as archive:
        archive.writestr("manifest.json", "{}")
    refused(bundle, "'manifest.json' is in it twice")


def test_many_files(bundle: Path, refused: Callable[[Path, str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "FILES", 3)
    refused(bundle, "files, a bundle has 3 at most")


def test_bombs(bundle: Path, refused: Callable[[Path, str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A gigabyte of blanks as a log, a large configuration, and what says that it is small and is not."""
    files = read(bundle)
    log = next(name for name in files if "samples-" in name)
    monkeypatch.setattr(unpack, "PLENTY", 2**20)
    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, b" " * 2**24 if name == log else content)
    refused(bundle, "more than 200 times as much")
    config = next(name for name in files if name.endswith("config.yaml"))
    write(bundle, files | {config: b"#" * (unpack.YAML + 1)})
    refused(bundle, "1048576 at most are read")
    write(bundle, files | {config: b" " * 2**17})
    content = bytearray(bundle.read_bytes())
    place = content.rfind(config.encode()) - 46 + 24  # its size in the central directory
    assert struct.unpack_from("<I", content, place) == (2**17,)
    struct.pack_into("<I", content, place, 10)
    bundle.write_bytes(content)
    refused(bundle, "is no bundle, or a damaged one")


def test_encrypted(bundle: Path, refused: Callable[[Path, str], None]) -> None:
    content = bytearray(bundle.read_bytes())
    place = content.find(b"PK\x01\x02") + 8
    content[place] |= 1
    bundle.write_bytes(content)
    refused(bundle, "is encrypted")


def test_packed_otherwise(bundle: Path, refused: Callable[[Path, str], None]) -> None:
    files = read(bundle)
    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_LZMA) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    refused(bundle, "is packed in a way that no bundle is")


def test_cut_off_anywhere(bundle: Path, refused: Callable[[Path, str], None]) -> None:
    content = bundle.read_bytes()
    for end in (0, 1, 30, len(content) // 2, len(content) - 30, len(content) - 1):
        bundle.write_bytes(content[:end])
        refused(bundle, "b.zip is no bundle, or a damaged one")


def test_every_flipped_byte_is_seen(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the contents; never a traceback, wherever it is. Times and the like are nobody's."""
    content, seen = bundle.read_bytes(), 0
    places = range(0, len(content), 97)
    for place in places:
        bundle.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        code = main(["verify", str(bundle)])
        assert code in (0, 1, 2) and "Traceback" not in capsys.readouterr().err
        seen += code != 0
    assert seen > 0.8 * len(places)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{", "manifest.json is no JSON"), (b"[1]", "of format None"), (b'{"format": 2}', "of format 2"),
        (b"[" * 100_000, "manifest.json is no JSON"), (b'{"format": 1}', "manifest.json.vtpbench"),
        (b'{"format": 1, "vtpbench": "1", "files": [], "cells": {}}', "files must be groups of keys"),
        (b'{"format": 1, "vtpbench": "1", "files": {"a": {"sha256": 1, "bytes": 1}}, "cells": {}}', "sha256 must be"),
        (b'{"format": 1, "vtpbench": "1", "files": {}, "cells": {}, "more": 1}', "unknown key manifest.json.more"),
        (b"\xff\xfe\x00", "manifest.json is no JSON"),
    ],
)  # fmt: skip
def test_manifests(content: bytes, why: str, bundle: Path, refused: Callable[[Path, str], None]) -> None:
    write(bundle, read(bundle) | {"manifest.json": content})
    refused(bundle, why)


def test_no_manifest_no_file(bundle: Path, tmp_path: Path, refused: Callable[[Path, str], None]) -> None:
    write(bundle, {name: content for name, content in read(bundle).items() if name != "manifest.json"})
    refused(bundle, "it has no manifest.json")
    refused(tmp_path / "nothing.zip", "nothing.zip is no bundle, or a damaged one (No such file or directory)")
    refused(tmp_path, "Is a directory")


def test_a_cell_that_is_stated_and_not_there(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = read(bundle)
    manifest = json.loads(files["manifest.json"])
    manifest["cells"]["a/../../b/c"] = next(iter(manifest["cells"].values()))
    write(bundle, files | {"manifest.json": json.dumps(manifest).encode()})
    assert main(["verify", str(bundle)]) == 1
    assert "cell a/../../b/c is stated or there, but not both" in capsys.readouterr().out
