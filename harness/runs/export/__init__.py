"""Stored replies in the result formats of other kits, so that their scorers can score them (`vtpbench export`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.runs.errors import InputError
from harness.runs.export import lmms_eval, vlmevalkit
from harness.runs.export.answers import Answers

Row = dict[str, Any]
KITS: dict[str, Callable[[Answers, Path, bool], Row]] = {"vlmevalkit": vlmevalkit.write, "lmms_eval": lmms_eval.write}
"""What writes the files of a cell, and says what it wrote and what a reader must know."""


def export(
    folders: Sequence[Path], to: str, out: Path, *, fill: bool = False, data: str | None = None
) -> Iterator[Row]:
    """Write the replies of cells, a row for each; files that exist are replaced.

    Args:
        folders: of the cells.
        to: the kit, one of `KITS`.
        out: folder for the files.
        fill: answer questions that were not run by an empty text; lmms_eval has to have all of them.
        data: where the benchmark's data lie now, if not where the cells found them.

    Raises:
        InputError: in one line, what cannot be exported, or why.
    """
    if to not in KITS:
        raise InputError(f"to= must be {' or '.join(KITS)}, got {to or 'nothing'}")
    for folder in folders:
        answers = Answers.read(folder, data)
        try:
            yield {"cell": answers.label, **KITS[to](answers, out, fill)}
        except OSError as error:
            raise InputError(f"cannot write to {out}: {error.strerror}") from None
