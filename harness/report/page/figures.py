"""What the figures of a report show, section by section: accuracy against costs, lengths of replies, RVIS curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.report.analysis.rvis import THRESHOLD, rvis_events
from harness.report.page.board import full_name
from harness.report.page.plain import Json, number, numbers, records
from harness.tables.caption import DIAGNOSTIC
from harness.tables.columns import Row, budget
from harness.tables.pareto import COSTS, RETENTION, fronts

AXES = (*COSTS, *RETENTION)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
LEAST = 5
"""Replies that a curve is an average of."""
EVENTS = 400
"""Marks of events in one figure."""


def costs(frame: pd.DataFrame, results: Path) -> dict[str, list[Json]]:
    """By title a point per cell: accuracy with its interval, all costs, and on which fronts it lies."""
    frame = fronts(frame, results, AXES)
    out: dict[str, list[Json]] = {}
    for row in records(frame[frame.accuracy.notna()]):
        out.setdefault(row["title"], []).append({
            **_name(row), **numbers(row, ("accuracy", "accuracy_low", "accuracy_high", *AXES)),
            "fronts": [axis for axis in AXES if row[f"front_{axis}"]], "diagnostic": row["method"] in DIAGNOSTIC,
        })  # fmt: skip
    return out


def lengths(frame: pd.DataFrame, samples: pd.DataFrame) -> dict[str, list[Json]]:
    """By title a row per cell: QUANTILES of the tokens that its replies have."""
    found = samples[~samples.failed].groupby("cell", observed=True).trace_length
    table, sizes = found.quantile(np.array(QUANTILES)).unstack(), found.size()
    quantiles = dict(zip(table.index, table.to_numpy().tolist(), strict=True))
    out: dict[str, list[Json]] = {}
    for row in records(frame[frame.cell.isin(list(quantiles))]):
        own = [number(value) for value in quantiles[row["cell"]]]
        out.setdefault(row["title"], []).append({**_name(row), "quantiles": own, "n": int(sizes[row["cell"]])})
    return out


def _name(row: Row) -> Json:
    return {"method": full_name(row), "label": row["label"], "keep": budget(row)}


def shifts(curves: Mapping[str, Sequence[NDArray[np.float64]]]) -> dict[str, Json]:
    """By title: similarity to the prefill by step over replies of the full model (median, middle 80 %, where there are
    some replies that long), and the RVIS events."""
    return {title: _shifts(own) for title, own in curves.items() if any(len(curve) for curve in own)}


def _shifts(curves: Sequence[NDArray[np.float64]]) -> Json:
    longest = max(map(len, curves))
    padded = np.array([np.pad(curve, (0, longest - len(curve)), constant_values=np.nan) for curve in curves])
    last = int(np.sum(np.sum(~np.isnan(padded), axis=0) >= min(LEAST, len(curves))))
    band: Any = np.nanquantile(padded[:, :last], [0.1, 0.5, 0.9], axis=0)
    events = [(int(t) + 1, float(curve[t])) for curve in curves for t in rvis_events(curve)]
    return {
        "low": [number(x, 3) for x in band[0]], "median": [number(x, 3) for x in band[1]],
        "high": [number(x, 3) for x in band[2]], "replies": len(curves), "threshold": THRESHOLD,
        "events": [[t, number(x, 3)] for t, x in events[:EVENTS]], "rate": number(len(events) / len(curves), 3),
    }  # fmt: skip
