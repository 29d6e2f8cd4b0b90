"""Reading a bundle that a stranger made: names, kinds, numbers and sizes are checked before anything is written."""

from __future__ import annotations

import hashlib
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.runs.bundle.manifest import MANIFEST, PLAIN, File, Manifest, cell_of
from harness.runs.errors import InputError

FILES = 100_000
"""So many files at most."""
SMALL, YAML = 64 * 2**20, 2**20
"""Bytes of a file that is read as a whole, and of one whose parser is slow, at most."""
PACKED, PLENTY = 200, 2**30
"""Logs hardly get smaller than by this factor; what unpacks to more, and to more than so many bytes, is a bomb."""
_BROKEN = (
    zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError, OverflowError,
)  # fmt: skip


def unpack(bundle: Path, into: Path) -> tuple[Manifest, list[str]]:
    """Write the cells of a bundle below a folder, as in results/runs.

    Returns:
        The manifest, and how the files are not those that it states; what follows can be trusted only if nothing is.

    Raises:
        InputError: it is no bundle, or one that must not be unpacked.
    """
    with _opened(bundle) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        _check(archive.infolist(), bundle.stat().st_size)
        if MANIFEST not in entries:
            raise InputError(f"it has no {MANIFEST}")
        manifest = Manifest.parse(archive.read(MANIFEST))
        wrong = list(_names(manifest, set(entries) - {MANIFEST}))
        for name in sorted(manifest.files.keys() & entries.keys() - {MANIFEST}):
            target = into.joinpath(*name.split("/")[1:])
            target.parent.mkdir(parents=True, exist_ok=True)
            if _write(archive, entries[name], target) != manifest.files[name]:
                wrong.append(f"{name} is not what was bundled: its SHA-256 or size differs")
    return manifest, wrong


@contextmanager
def _opened(bundle: Path) -> Iterator[zipfile.ZipFile]:
    """The archive; whatever is wrong with it is one InputError."""
    try:
        with zipfile.ZipFile(bundle) as archive:
            yield archive
    except InputError as error:
        raise InputError(f"{bundle}: {error}") from None
    except _BROKEN as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"{bundle} is no bundle, or a damaged one ({why or type(error).__name__})") from None


def _check(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Raise InputError for an archive that no bundle is."""
    if len(entries) > FILES:
        raise InputError(f"it has {len(entries)} files, a bundle has {FILES} at most")
    names: set[str] = set()
    for entry in entries:
        name, kind = entry.filename, stat.S_IFMT(entry.external_attr >> 16)
        cell_of(name)
        if name in names:
            raise InputError(f"{name!r} is in it twice")
        names.add(name)
        if kind not in (0, stat.S_IFREG):
            raise InputError(f"{name!r} is a link or a device")
        if entry.flag_bits & 0x1:
            raise InputError(f"{name!r} is encrypted")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(f"{name!r} is packed in a way that no bundle is")
        most = YAML if name.endswith(".yaml") else SMALL
        if entry.file_size > most and not name.endswith(".jsonl"):
            raise InputError(f"{name!r} says that it has {entry.file_size} bytes, {most} at most are read")
    if (total := sum(entry.file_size for entry in entries)) > max(PACKED * size, PLENTY):
        raise InputError(f"its {size} bytes say that they unpack to {total}, more than {PACKED} times as much")


def _names(manifest: Manifest, there: set[str]) -> Iterator[str]:
    """How the files are not those of the manifest, and its cells not those of the files."""
    yield from (f"{name} is missing" for name in sorted(manifest.files.keys() - there))
    yield from (f"{name} is not in {MANIFEST}" for name in sorted(there - manifest.files.keys()))
    cells = {cell for name in there if (cell := cell_of(name))}
    yield from (f"cell {name} is stated or there, but not both" for name in sorted(cells ^ manifest.cells.keys()))
    for cell in sorted(cells):
        yield from (f"cells/{cell}/{name} is missing" for name in PLAIN if f"cells/{cell}/{name}" not in there)


def _write(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> File:
    """Unpack one file, never more than it says it has; returns what was written."""
    digest, size = hashlib.sha256(), 0
    with archive.open(entry) as source, open(target, "xb") as file:
        while chunk := source.read(2**20):
            size += len(chunk)
            if size > entry.file_size:
                raise InputError(f"{entry.filename!r} is longer than it says")
            digest.update(chunk)
            file.write(chunk)
    return File(digest.hexdigest(), size)
