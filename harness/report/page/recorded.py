"""What cells have on record of the attention of their replies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.report.analysis.stored import default_layer
from harness.runs.errors import InputError
from harness.runs.log import iter_log
from harness.tables.columns import Row


@dataclass
class Recorded:
    """What cells have on record.

    Attributes:
        ids: samples with a record of attention, by cell.
        curves: similarity to the prefill by step, of all replies of the full model, by title.
    """

    ids: dict[str, set[str]] = field(default_factory=dict)
    curves: dict[str, list[NDArray[np.float64]]] = field(default_factory=dict)

    @classmethod
    def read(cls, runs: Path, rows: Sequence[Row]) -> Recorded:
        """Of these cells of a `runs` folder."""
        out = cls()
        for row in rows:
            with understood(runs / row["cell"]):
                out._add(runs, row)
        return out

    def _add(self, runs: Path, row: Row) -> None:
        ids = self.ids.setdefault(row["cell"], set())
        for (sample, _), line in iter_log(runs / row["cell"], "attention"):
            if seen := seen_in(line):
                ids.add(sample)
                if row["label"] == "none":
                    steps = np.array(seen["steps"])[1:, :, seen["measures"].index("similarity")]
                    self.curves.setdefault(row["title"], []).append(steps[:, default_layer(steps.shape[1])])


@contextmanager
def understood(folder: Path) -> Iterator[None]:
    """Raises InputError where a line of a cell's logs is not what it should be."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder}: a line of its logs was made by another version ({error!r})") from None


def seen_in(line: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of a reply to a picture, if there is one."""
    found: dict[str, Any] = line.get("attention") or {}
    return found if found.get("visual_tokens") else None
