"""Copies of the samples of every cell in `results/cache/`, as columns, so that logs are read once.

A copy is used only as long as the files of its cell are those that it was made from (names, sizes, times) and the code
that made it is the code at hand. One that is old, damaged or not there is made anew; where nothing can be written, the
logs are read each time. The folder can be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from harness.runs.errors import InputError
from harness.tables.samples import read_samples

_CODE = (
    *("tables/samples.py", "tables/store.py", "tables/frames.py", "runs/log.py", "runs/scores.py", "runs/summary.py"),
    *("benchmarks/base.py", "benchmarks/scoring/*.py"),
)
_SETTLED = 2.0
"""Seconds that files must have been left alone: two changes within one tick of a coarse clock have the same time."""
_MUCH = 200e6
"""Bytes of logs from which on other processes are worth their start."""
_PROCESSES = 8
_HELP = "import sys; from harness.tables.store import help_reading; help_reading(sys.stdin)"


@dataclass
class Source:
    """The samples of one cell, from its copy or from its logs.

    Attributes:
        folder: of the cell.
        copy: file of the copy.
        state: of the files in the folder, before anything of them was read.
        newest: when the last of them was changed, in seconds.
        size: of all of them, in bytes.
        about: settings and headline of the cell, as plain JSON values; empty if there is no copy that can be used. Then
            the settings have to be put there before the samples are asked for, which adds the headline.
    """

    folder: Path
    copy: Path
    state: str
    newest: float
    size: int
    about: dict[str, Any] = field(default_factory=dict)
    _content: bytes = b""
    _table: pa.Table | None = None

    @classmethod
    def find(cls, folder: Path, copy: Path) -> Source:
        """With its copy, if that can be used."""
        files = [folder / "config.yaml", *folder.glob("samples-*.jsonl"), *folder.glob("scores/*.jsonl")]
        stats = {file.relative_to(folder).as_posix(): file.stat() for file in files}
        state = sorted((name, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in stats.items())
        newest, size = max(s.st_mtime for s in stats.values()), sum(s.st_size for s in stats.values())
        source = cls(folder, copy, json.dumps(state), newest, size)
        source.look()
        return source

    def look(self) -> None:
        """Take the copy, if it can be used."""
        try:
            digest, about, content = self.copy.read_bytes().split(b"\n", 2)
        except (OSError, ValueError):
            return
        if digest == self._digest(about, content):
            self.about, self._content = json.loads(about), content

    @property
    def known(self) -> bool:
        """Whether the samples are there without the logs."""
        return bool(self._content) or self._table is not None

    def samples(self) -> pa.Table:
        """One row per sample and repeat, without the replies. Raises InputError for a damaged log."""
        if self._content:
            return pa.ipc.open_stream(self._content).read_all()
        if self._table is None:
            self._table = self.replies().drop_columns("text")
            self._keep(self._table)
        return self._table

    def replies(self) -> pa.Table:
        """The same with the replies, which are only in the logs."""
        table, headline = read_samples(self.folder, self.about)
        self.about |= headline
        return table

    def _keep(self, table: pa.Table) -> None:
        if time.time() - self.newest < _SETTLED:
            return
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
            writer.write_table(table)
        content = sink.getvalue().to_pybytes()
        temporary = self.copy.with_name(f".{self.copy.name}.{os.getpid()}")
        with contextlib.suppress(OSError, TypeError):  # not ours to write to; settings that JSON cannot hold
            about = json.dumps(self.about).encode()
            self.copy.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(b"\n".join((self._digest(about, content), about, content)))
            temporary.replace(self.copy)

    def _digest(self, about: bytes, content: bytes) -> bytes:
        parts = (_code(), self.state.encode(), about, content)
        return hashlib.blake2b(b"\n".join(parts), digest_size=16).hexdigest().encode()


def read_all(sources: Sequence[Source]) -> None:
    """Have all samples ready; where that means to read many logs, on all cores."""
    missing = [source for source in sources if not source.known]
    cores = min(len(os.sched_getaffinity(0)), _PROCESSES)
    much = sum(source.size for source in missing) > _MUCH
    ours, *others = [missing[i::cores] for i in range(cores)] if much and _writable(missing[0].copy) else [missing]
    helpers = [_helper(share) for share in others if share]
    try:
        for source in ours:
            source.samples()
        for helper in helpers:
            helper.wait()
    finally:
        for helper in helpers:
            helper.kill()
            helper.wait()
    for share in others:
        for source in share:
            source.look()
            source.samples()


def help_reading(lines: Iterable[str]) -> None:
    """Make the copies of the sources that `_helper` describes; what cannot be read is left to who asked."""
    for line in lines:
        folder, copy, *rest = json.loads(line)
        with contextlib.suppress(InputError):
            Source(Path(folder), Path(copy), *rest).samples()


def _helper(sources: Sequence[Source]) -> subprocess.Popen[bytes]:
    """A process of its own: neither a fork of one with threads nor a second run of the caller's script."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with tempfile.TemporaryFile("w+") as lines:  # a pipe would hold us up until the helper has read nearly all
        for s in sources:
            lines.write(json.dumps([str(s.folder), str(s.copy), s.state, s.newest, s.size, s.about]) + "\n")
        lines.seek(0)
        return subprocess.Popen([sys.executable, "-c", _HELP], stdin=lines, stderr=subprocess.DEVNULL, env=env)


def _writable(copy: Path) -> bool:
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(copy.parent, os.W_OK)


@cache
def _code() -> bytes:
    home = Path(__file__).resolve().parents[1]
    files = sorted(file for pattern in _CODE for file in home.glob(pattern))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).digest()
