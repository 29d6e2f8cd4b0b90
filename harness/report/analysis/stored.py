"""Stored runs as analyses read them: samples, and what their replies looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.report.analysis.kind import Ask
from harness.runs.errors import InputError
from harness.runs.log import iter_log
from harness.tables.frames import load, varying

CELL = ["model", "task", "method", "addon", "keep", "params"]
"""Columns of its cell that a sample carries. `task`: the benchmark, with what tells it from others of that name (as in
"glyph_walk lengths=[9, 10]"); `params`: of method and add-on, as a dictionary."""


@dataclass(frozen=True)
class Looked:
    """One reply and its attention.

    Attributes:
        sample: its row of `samples`.
        steps: [T, L, M] what `harness.engine.watch.MEASURES` says, of the last prompt token and every new one.
        record: the whole record, as `harness.engine.watch` describes it.
    """

    sample: dict[str, Any]
    steps: NDArray[np.float64]
    record: dict[str, Any]

    def measure(self, name: str) -> NDArray[np.float64]:
        """[T, L] one of the measures."""
        return self.steps[:, :, self.record["measures"].index(name)]


def samples(ask: Ask, text: bool = False) -> pd.DataFrame:
    """`harness.tables.samples_frame` with the columns CELL; `text` as there."""
    cells, rows = load(ask.results, ask.models, ask.benchmarks, text=text)
    cells["task"] = cells["benchmark"]
    for name, own in cells.groupby("benchmark"):
        labels = varying([config["benchmark"] for config in own["config"]])
        cells.loc[own.index, "task"] = [f"{name} {label}".strip() for label in labels]
    return rows.merge(cells.set_index("cell")[CELL], left_on="cell", right_index=True)


def chosen(rows: pd.DataFrame, **cell: Any) -> pd.DataFrame:
    """The samples of cells with these values in CELL, such as method="none"; None stands for what is not set.

    Raises:
        InputError: there are none.
    """
    for key, value in cell.items():
        rows = rows[rows[key].isna() if value is None else rows[key] == value]
    if rows.empty:
        raise InputError(f"no run with {' '.join(f'{key}={value}' for key, value in cell.items())}")
    return rows


def looked(ask: Ask, **cell: Any) -> Iterator[Looked]:
    """Replies to pictures in the cells that `chosen` takes and that ran with `record=attention`.

    Raises:
        InputError: there are none.
    """
    found = False
    for name, own in chosen(samples(ask, text=True), **cell).groupby("cell", observed=True):
        by_key = {(row["id"], row["repeat"]): row for row in _records(own)}
        for key, line in iter_log(ask.results / "runs" / str(name), "attention"):
            if key in by_key and line["attention"] and line["attention"]["visual_tokens"]:
                found = True
                yield Looked(by_key[key], np.array(line["attention"]["steps"]), line["attention"])
    if not found:
        wanted = " ".join(f"{key}={value}" for key, value in cell.items())
        raise InputError(f"no run with {wanted} has record=attention under {ask.results / 'runs'}")


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


def watched_layer(ask: Ask, depth: int) -> int:
    """The layer to read (see `Ask.layer`)."""
    layer = default_layer(depth) if ask.layer is None else ask.layer
    if not -depth <= layer < depth:
        raise InputError(f"layer={layer} is not one of {depth} layers")
    return layer % depth


def default_layer(depth: int) -> int:
    """The layer that DSTP watches on top of a method before layer 0."""
    return min(2, depth - 1)
