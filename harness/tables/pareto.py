"""Pareto fronts: the cells that no other one beats, more accurate and cheaper at once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from harness.tables.frames import FLOPS, TablesError

CEILINGS = frozenset({"oracle", "replay"})
"""Methods that know what no method can know; they stand on no front and keep nobody from it."""
COSTS = {"flops": "T", "seconds": "s"}
"""What a front of a table can be drawn against, and its sign there."""
RETENTION = ("ret_prefill", "ret_decode", "kv")
"""What else a front can be drawn against."""


def total_flops(cells: pd.DataFrame) -> pd.Series:
    """Executed FLOPs per sample, all parts together; unknown (NaN) if one of them is."""
    return cells[[f"flops_{part}" for part in FLOPS]].sum(axis=1, skipna=False)


def pareto(cells: pd.DataFrame, cost: str = "flops", by: Sequence[str] = ("title",)) -> pd.Series:
    """Which cells are on the front of accuracy (more is better) against a cost (less is better): bool, per row.

    A cell is off the front if another one of its group is at least as accurate and as cheap, and better in one of the
    two. Ties stay. Point estimates are compared: two cells whose intervals overlap may well change places.

    Args:
        cells: with accuracy, method, and `cost` or, for "flops", the parts of `total_flops`.
        cost: "flops" (executed, of all parts) or "seconds", both per sample, or one of RETENTION.
        by: columns; cells that differ in one of them do not compete.

    Raises:
        TablesError: an unknown cost.
    """
    if cost not in (*COSTS, *RETENTION):
        raise TablesError(f"a front is drawn against {', '.join((*COSTS, *RETENTION))}; got {cost}")
    costs = cells[cost] if cost in cells else total_flops(cells)
    running = cells.accuracy.notna() & costs.notna() & ~cells.method.isin(CEILINGS)
    front = pd.Series(False, index=cells.index)
    for _, part in cells[running].groupby(list(by)):
        front[part.index] = _best(part.accuracy.to_numpy(), costs[part.index].to_numpy())
    return front


def fronts(frame: pd.DataFrame, results: Path, costs: Iterable[str] = COSTS) -> pd.DataFrame:
    """The frame of a leaderboard with `flops` (all parts), `machine` and for each cost front_<cost>.

    Seconds compete only where all were taken on one machine.
    """
    known = machines(results, frame.cell)
    frame = frame.assign(flops=total_flops(frame))
    frame["machine"] = [" and ".join(sorted(known[cell])) or None for cell in frame.cell]
    for cost in costs:
        frame[f"front_{cost}"] = pareto(frame, cost)
    one = frame.groupby("title").machine.transform("nunique") <= 1
    frame["front_seconds"] &= one & ~frame.machine.str.contains(" and ", regex=False, na=False)
    return frame


def machines(results: Path, cells: Iterable[str]) -> dict[str, frozenset[str]]:
    """For each cell folder, the machines that its samples were made on, as its environment.json names them."""
    runs = results / "runs" if (results / "runs").is_dir() else results
    return {cell: _machines(runs / cell / "environment.json") for cell in cells}


def _machines(file: Path) -> frozenset[str]:
    try:
        made = json.loads(file.read_text(encoding="utf-8")).values()
        return frozenset(f"{one['devices']} ({one['platform']})" for one in made)
    except (OSError, ValueError, AttributeError, KeyError, TypeError):  # not there, or of another version
        return frozenset()


def _best(accuracy: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Accuracies and costs [n]; which are dominated by none, bool [n]."""
    at_least = (accuracy[:, None] >= accuracy) & (cost[:, None] <= cost)
    better = (accuracy[:, None] > accuracy) | (cost[:, None] < cost)
    return np.asarray(~(at_least & better).any(axis=0))
