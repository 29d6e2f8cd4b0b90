"""The verbs `submit` and `verify`: results in one file, and whether such a file holds what it says."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from harness.cli_shared import epilog, terminal
from harness.runs.compose import split
from harness.runs.errors import InputError
from harness.runs.trusted import shown
from harness.runs.typed import check_keys

if TYPE_CHECKING:
    from rich.table import Table

    from harness.runs.backend import Backend
    from harness.runs.bundle.check import Check

SUBMIT_KEYS = {
    "to": "the bundle (bundle.zip)",
    "paths": "keep: share a local path that stands in a cell's identity, such as model.path=/my/folder",
}
VERIFY_KEYS = {
    "to": "a results folder that gets the cells, if nothing is wrong with them",
    "benchmark.data": "local folder or file of the benchmark (the hub's cache)",
}
CHECKED = {
    "files": "SHA-256 and size; none more, none less",
    "form": "all files and lines can be read",
    "identity": "folder, hash, configuration agree",
    "samples": "each once, as many as stated",
    "environment": "of the code of every sample",
    "verdicts": "one a reply; rules applied again",
    "summary": "every number computed again",
    "benchmark": "samples and answers are its own",
}
EPILOGS = {
    "submit": epilog(SUBMIT_KEYS, "submit results/runs to=mine.zip", "submit results/runs/tiny_qwen3_vl/*/fastv*"),
    "verify": epilog(VERIFY_KEYS, "verify mine.zip", "verify mine.zip to=theirs && vtpbench table paths.results=theirs")
    + "\n\nchecked of every cell:\n"
    + "\n".join(f"  {name:<12} {text}" for name, text in CHECKED.items()),
}


def submit(arguments: argparse.Namespace, backend: Backend | None) -> int:
    """Write finished cells as one file that can be given away, checked as `verify` checks it."""
    from harness.runs.bundle.pack import pack, sha256
    from harness.runs.rescore import cell_folders

    names, keys = split(arguments.overrides)
    check_keys(keys, SUBMIT_KEYS, "")
    if not names:
        raise InputError("submit needs cell folders, or a folder above them such as results/runs")
    if keys.get("paths", "keep") != "keep":
        raise InputError(f"paths must be keep, got {keys['paths']}")
    out = Path(keys.get("to", "bundle.zip"))
    made = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        manifest = pack(cell_folders(names), made, paths="paths" in keys)
        with TemporaryDirectory() as place:
            if wrong := [check for check in _checks(made, Path(place), None) if check.ok is False]:
                raise InputError(f"{_line(wrong[0])}; run or score the cell again")
        made.replace(out)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from None
    finally:
        made.unlink(missing_ok=True)
    replies = sum(cell.samples for cell in manifest.cells.values())
    print(f"{out}: {len(manifest.cells)} cells, {replies} replies, {out.stat().st_size} bytes, SHA-256 {sha256(out)}")
    return 0


def verify(arguments: argparse.Namespace, backend: Backend | None) -> int:
    """Check a bundle, of which nothing is believed; exit code 1 if it is not what it says."""
    from harness.runs.bundle.pack import sha256

    names, keys = split(arguments.overrides)
    check_keys(keys, VERIFY_KEYS, "")
    if len(names) != 1:
        raise InputError("verify needs one bundle, such as bundle.zip")
    bundle, to = Path(names[0]), Path(keys["to"]) if "to" in keys else None
    try:
        if to:
            to.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=to, prefix=".unpacked-") as place:
            found = list(_checks(bundle, Path(place), keys.get("benchmark.data")))
            print(f"{shown(str(bundle))}: SHA-256 {sha256(bundle)}")
            _show(found)
            if any(check.ok is False for check in found):
                return 1
            if to:
                _move(Path(place), to / "runs")
    except OSError as error:
        raise InputError(f"cannot unpack {bundle}: {error.strerror or error}") from None
    return 0


def _checks(bundle: Path, place: Path, data: str | None) -> Iterator[Check]:
    """All checks of a bundle that is unpacked into a folder; of its cells only if the files are those it states."""
    from harness.runs.bundle.check import Check, checks
    from harness.runs.bundle.unpack import unpack

    manifest, wrong = unpack(bundle, place)
    yield from (Check("files", "", False, why) for why in wrong)
    if not wrong:
        yield from (Check("files", cell, True) for cell in manifest.cells)
        yield from checks(place, manifest, data)


def _move(place: Path, runs: Path) -> None:
    """Cells into a results folder, all or none. Raises InputError for one that is there already."""
    cells = {file.parent: runs / file.parent.relative_to(place) for file in sorted(place.glob("*/*/*/*/config.yaml"))}
    if there := [target for target in cells.values() if target.exists()]:
        raise InputError(f"{there[0]} is there already: nothing was unpacked")
    for source, target in cells.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
    print(f"{len(cells)} cells in {runs}")


def _show(found: Sequence[Check]) -> None:
    """A row per kind of check, then a line for whatever is wrong or could not be checked."""
    with terminal() as console:
        console.print(_table(found))
    for check in found:
        if check.ok is False:
            print(f"failed: {_line(check)}")
    for line in dict.fromkeys(f"not checked: {check.name}: {check.why}" for check in found if check.ok is None):
        print(shown(line))


def _table(found: Sequence[Check]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("check", "ok", "failed", "not checked", "of what"):
        table.add_column(title, justify="right" if title in ("ok", "failed", "not checked") else "left")
    for name, what in CHECKED.items():
        counts = [sum(check.name == name and check.ok is ok for check in found) for ok in (True, False, None)]
        table.add_row(name, *map(str, counts), what)
    return table


def _line(check: Check) -> str:
    return shown(": ".join(filter(None, (check.cell, check.name, check.why))))
