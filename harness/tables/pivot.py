"""Tables with any two of the settings as rows and columns: one metric, equal-budget bands, Pareto fronts.

    pivot(Path("results"), rows="method", cols="benchmark", metric="accuracy", budget="ret_decode").print()

The statistics are those of the leaderboard. What must not stand side by side (two protocols, two sample sizes, two
versions of the data) is refused with the difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console

from harness.runs.at_k import parse
from harness.tables import pivot_caption, pivot_text, render
from harness.tables.bands import BUDGETS, bands
from harness.tables.frames import TablesError
from harness.tables.leaderboard import Leaderboard, compared
from harness.tables.pareto import fronts, total_flops
from harness.tables.pivot_cells import AXES, placed, refuse
from harness.tables.pivot_pairs import with_ratios, with_relative
from harness.tables.pivot_text import METRICS, ROW, Asked


@dataclass(frozen=True)
class Pivot:
    """A pivot table ready to be printed.

    Attributes:
        frame: one row per cell, raw values: the columns of `Leaderboard.frame`, then section, row and column (with
            row_budget or column_budget where methods are told apart by it), headline, flops (all parts), value (of
            the metric), budget and band (of the row), cost_per_correct (FLOPs), machine, front_flops and front_seconds;
            of accuracies by benchmark relative with its ends (of the row), of trace lengths the ratios to the reference
            (finished_ratio, right_ratio, ...).
        notes: the caption, one sentence a line.
        asked: what the table shows.
        command: what printed it, if known.
    """

    frame: pd.DataFrame
    notes: tuple[str, ...]
    asked: Asked
    command: str | None = None

    def to_markdown(self) -> str:
        """A section each with padded Markdown tables, the caption and the command."""
        return render.markdown(self._tables(), self.notes, self.command, self.asked.heading)

    def to_latex(self) -> str:
        """One `table*` per section (needs booktabs)."""
        return render.latex(self._tables(), self.notes, self.command)

    def to_csv(self) -> str:
        """`frame` in full precision; dictionaries as JSON."""
        return Leaderboard(self.frame, self.notes).to_csv()

    def print(self, console: Console | None = None) -> None:
        """Print to a terminal, in as many stacked blocks as its width asks for."""
        render.terminal(self._tables(), self.notes, self.command, console or Console())

    def _tables(self) -> list[pivot_text.Grid]:
        return pivot_text.grids(self.frame, self.asked)


def pivot(
    results: Path,
    *,
    rows: str = "method",
    cols: str = "benchmark",
    metric: str = "accuracy",
    against: str = "full",
    margin: float = 1.0,
    protocol: str | None = None,
    budget: str = "ret_nominal",
    models: Sequence[str] = (),
    benchmarks: Sequence[str] = (),
    command: str | None = None,
) -> Pivot:
    """One metric of all cells of a results folder, as a table of two settings.

    Settings that are neither rows nor columns make sections; a method's budget stays beside its name.

    Args:
        results: the results folder.
        rows, cols: two of `AXES`. A method is named with its add-on unless that is an axis by itself.
        metric: one of `METRICS`, or pass@k or mean@k (of cells with k replies to a sample), such as pass@2.
        against, margin, protocol, models, benchmarks, command: as for `leaderboard`.
        budget: one of `BUDGETS`. Rows of methods are put into bands of equal budget, the full model above them.

    Raises:
        TablesError: an unknown name, nothing to print, or cells that may not stand side by side.
    """
    for key, value, known in (
        ("rows", rows, AXES),
        ("cols", cols, tuple(axis for axis in AXES if axis != rows)),
        ("metric", "pass@k" if parse(metric) else metric, (*METRICS, "pass@k", "mean@k")),
        ("budget", budget, tuple(BUDGETS)),
    ):
        if value not in known:
            raise TablesError(f"{key} must be one of {', '.join(known)}; got {value}")
    frame, samples = compared(
        results, models, benchmarks, margin=margin, against=against, protocol=protocol, headline=metric == "headline",
        replies=metric if parse(metric) else None,
    )  # fmt: skip
    asked = Asked(rows, cols, metric, against, margin, budget)
    frame = placed(_valued(frame, metric), rows, cols)
    refuse(frame, asked)
    if metric == "trace_length":
        frame = with_ratios(frame, samples)
    if asked.relative:
        frame = with_relative(frame, samples)
    frame = _ordered(_banded(fronts(frame, results), asked), asked)
    return Pivot(frame, pivot_caption.notes(frame, asked), asked, command)


def _valued(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """With what follows from the columns of the leaderboard, and the metric as `value`."""
    frame = frame.assign(headline=frame.metric_value, flops=total_flops(frame))
    frame["cost_per_correct"] = frame.flops / frame.accuracy.where(frame.accuracy > 0)
    return frame.assign(value=frame["accuracy" if parse(metric) else metric])


def _banded(frame: pd.DataFrame, asked: Asked) -> pd.DataFrame:
    """With the budget of each row, the mean over its columns, and its band: "full", "1", ..., or "-" if not known."""
    if not asked.banded:
        return frame.assign(budget=frame[asked.budget], band="")
    rows = frame.groupby(ROW)[asked.budget]
    mean, columns = rows.transform("mean"), rows.transform("count")
    if asked.budget == "flops":  # a mean over some of the columns would say more of the columns than of the method
        mean = mean.where(columns == columns.groupby(frame.section).transform("max"))
    frame = frame.assign(budget=mean, band="full")
    for _, part in frame[~_full(frame)].groupby("section"):
        frame.loc[part.index, "band"] = [str(band or "-") for band in bands(list(part.budget))]
    return frame


def _ordered(frame: pd.DataFrame, asked: Asked) -> pd.DataFrame:
    """Bands from large to small, the most accurate row first; else the full model, budgets from large to small, names.

    Columns go the second way.
    """
    mean = -frame.groupby(ROW).accuracy.transform("mean")
    band = pd.to_numeric(frame.band.where(~_full(frame), "0"), errors="coerce")
    rows = [band, mean] if asked.banded else _sizes(frame, asked.rows)
    keys = [frame.section, *rows, frame.row, frame.row_budget, *_sizes(frame, asked.cols), frame.column]
    order = pd.DataFrame({f"{i}": key for i, key in enumerate(keys)}, index=frame.index)
    order = order.sort_values(by=[f"{i}" for i in range(len(keys))], na_position="last")
    return frame.loc[order.index].reset_index(drop=True)


def _sizes(frame: pd.DataFrame, axis: str) -> list[pd.Series]:
    """Sort keys of an axis that has budgets."""
    return [~_full(frame), -frame.keep, -frame.tokens] if axis in {"method", "keep"} else []


def _full(frame: pd.DataFrame) -> pd.Series:
    return (frame.method == "none") & (frame.addon == "none")
