"""What a bundle says of itself, and how its files are named."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import Any

from harness.runs.errors import InputError
from harness.runs.trusted import check_name
from harness.runs.typed import build

FORMAT = 1
MANIFEST = "manifest.json"
WRITER = "bundle-0"
"""Stands in the names of logs in place of the machine that wrote them."""
SAMPLES = f"samples-{WRITER}.jsonl"
PLAIN = ("config.yaml", "environment.json", "summary.json", SAMPLES)
"""Files of every cell; its verdicts are `scores/<scoring>-<writer>.jsonl`."""
_SCORES = re.compile(rf"scores/[\w.-]+-{WRITER}\.jsonl")


@dataclass(frozen=True)
class File:
    """Digest and size of a file."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Stated:
    """What is stated of a cell: SHA-256 of its identity, the identity, and the number of its replies."""

    hash: str
    identity: dict[str, Any]
    samples: int


@dataclass(frozen=True)
class Manifest:
    """manifest.json: `files` by their names in the bundle, `cells` by theirs below results/runs."""

    format: int
    vtpbench: str
    files: dict[str, File]
    cells: dict[str, Stated]

    def text(self) -> str:
        """As it is stored; equal manifests are equal texts."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def parse(cls, content: bytes) -> Manifest:
        """From the file. Raises InputError."""
        try:
            plain = json.loads(content)
        except (ValueError, RecursionError):
            raise InputError(f"{MANIFEST} is no JSON") from None
        if not isinstance(plain, dict) or plain.get("format") != FORMAT:
            found = plain.get("format") if isinstance(plain, dict) else None
            raise InputError(f"{MANIFEST} is of format {str(found)[:20]}, this program reads {FORMAT}")
        made = build(cls, plain, MANIFEST)
        return dataclasses.replace(
            made, files=_each(File, made.files, "files"), cells=_each(Stated, made.cells, "cells")
        )


def _each(cls: type, values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, dict) or not all(isinstance(value, dict) for value in values.values()):
        raise InputError(f"{MANIFEST}: {where} must be groups of keys")
    return {name: build(cls, value, f"{MANIFEST}: {where}.{name}") for name, value in values.items()}


def cell_of(name: str) -> str | None:
    """The cell that a file of a bundle belongs to; None for the manifest. Raises InputError for any other name."""
    if name == MANIFEST:
        return None
    first, *parts = name.split("/")
    cell, file = parts[:4], "/".join(parts[4:])
    if first != "cells" or not (file in PLAIN or _SCORES.fullmatch(file)):
        raise InputError(f"{name!r} is no file of a bundle")
    for part in cell:
        check_name(part, f"a folder of {name!r}")
    return "/".join(cell)
