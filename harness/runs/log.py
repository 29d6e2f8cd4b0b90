"""The append-only sample log of a cell, made to survive SIGKILL at any moment."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import yaml

from harness.runs.errors import InputError
from harness.runs.lines import IDS, SAMPLE, Kinds, check_config, wrong_field
from harness.runs.summary import failed

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The safe loader; seven times as fast where PyYAML was built with libyaml."""

Key = tuple[str, int]
"""(sample id, repeat)."""


class Log:
    """One writer's file, `<stem>-<host>-<number>.jsonl`.

    The file is held by a lock that dies with its process: two processes never append to the same file, and the next
    process on this host goes on with the file of a dead one, after cutting off a line that was not finished.
    """

    def __init__(self, folder: Path, stem: str, say: Callable[[str], None]) -> None:
        number = 0
        while (file := _claim(folder / f"{stem}-{socket.gethostname()}-{number}.jsonl")) is None:
            number += 1
        self._file = file
        if cut := _repair(file):
            say(f"{file.name}: removed a torn last line ({cut} bytes); its sample runs again")

    def append(self, record: dict[str, Any]) -> None:
        """Write one line; it is safe from the end of this process, however that comes, once this returns.

        Raises:
            OSError: it cannot be written, and nothing of it is left behind.
        """
        line = json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        start, written = self._file.seek(0, os.SEEK_END), 0
        try:
            while written < len(line):  # a full disk takes part of it first
                written += self._file.write(line[written:])
        except OSError:
            self._file.truncate(start)
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def _claim(path: Path) -> BinaryIO | None:
    file = open(path, "a+b", buffering=0)  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _repair(file: BinaryIO) -> int:
    """Cut off what follows the last newline; returns the number of bytes cut."""
    file.seek(0)
    content = file.read()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        file.truncate(whole)
    return len(content) - whole


def read_log(folder: Path, stem: str = "samples") -> dict[Key, dict[str, Any]]:
    """Per sample and repeat the first complete line that is no error, else the first, over all writers; a last line
    still being written is passed over."""
    return dict(iter_log(folder, stem, whole=True))


def iter_log(folder: Path, stem: str = "samples", *, whole: bool = False) -> Iterator[tuple[Key, dict[str, Any]]]:
    """The same, a record at a time; failed samples, whose lines are short, come last. Unless they are to be `whole`,
    samples may lack fields."""
    seen: set[Key] = set()
    errors: dict[Key, dict[str, Any]] = {}
    kinds = SAMPLE if stem == "samples" else IDS
    for record in read_lines(folder, stem, kinds, kinds if whole else IDS):
        key = (record["id"], record.get("repeat", 0))
        if key in seen:
            continue
        if failed(record):
            errors.setdefault(key, record)
        else:
            seen.add(key)
            errors.pop(key, None)
            yield key, record
    yield from errors.items()


def _parse(line: bytes) -> Any:
    """A line of JSON; the slow parser reads what the fast one refuses, such as half a surrogate pair in a reply."""
    try:
        return orjson.loads(line)
    except ValueError:
        return json.loads(line)


def read_lines(folder: Path, stem: str, kinds: Kinds, needed: Collection[str]) -> Iterator[dict[str, Any]]:
    """All complete lines, over all writers. Raises InputError for a damaged one, or one that lacks a `needed` field."""
    for path in sorted(folder.glob(f"{stem}-*.jsonl")):
        if not path.is_file():
            raise InputError(f"{path} is no file; remove it")
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    record = _parse(line)
                    wrong = wrong_field(record, kinds, needed)
                except (ValueError, RecursionError):
                    wrong = "it is no JSON"
                if wrong:
                    raise InputError(
                        f"{path}, line {number} is damaged; remove the line, its sample will run again ({wrong})"
                    )
                yield record


def read_config(folder: Path) -> dict[str, Any]:
    """config.yaml of a cell. Raises InputError if the folder is not one."""
    try:
        config: dict[str, Any] = yaml.load((folder / "config.yaml").read_text(), LOADER)
        check_config(config)
    except (OSError, yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        why = str(error).partition("\n")[0]
        raise InputError(f"{folder} is not the folder of a cell: {why}") from None
    return config


def read_json(path: Path) -> dict[str, Any]:
    """A small file of JSON that the next run writes anew; empty if it is not there or damaged."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def digest(value: Any) -> str:
    """SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Replace a file as a whole; readers see the old or the new one. Raises OSError where it cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def disk_full(error: BaseException) -> bool:
    """Whether there was no room to write to."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
