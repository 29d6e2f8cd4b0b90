"""The columns of a pivot table: headings and the text of every cell."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd

from harness.runs.at_k import parse
from harness.tables import caption
from harness.tables.bands import BUDGETS
from harness.tables.columns import (
    COMPARISON,
    KEYS,
    NONE,
    Column,
    Row,
    Table,
    decimals,
    difference,
    interval,
    largest,
    percent,
    places,
    prefix,
)
from harness.tables.frames import FLOPS
from harness.tables.pareto import COSTS
from harness.tables.render import SIGNS

ROW, COLUMN = ["section", "row", "row_budget"], ["column", "column_budget"]
PERCENT, SHARE = "%", "share"
_RETENTION = {"ret_nominal": "nominal", "ret_prefill": "prefill", "ret_decode": "decode", "kv": "KV"}


@dataclass(frozen=True)
class Metric:
    """What a cell shows, in which unit (`PERCENT`, `SHARE` or a name).

    `judged`: all samples must be. `tested`: the difference to the reference stands beside it.
    """

    unit: str
    meaning: str
    judged: bool = False
    tested: bool = False


METRICS = {
    "accuracy": Metric(PERCENT, "accuracy by the official rule", judged=True, tested=True),
    "headline": Metric(PERCENT, "the benchmark's headline metric", judged=True, tested=True),
    "lenient": Metric(PERCENT, "accuracy with an answer read in any reasonable form", judged=True),
    **{key: Metric(SHARE, f"retention: {text}") for key, text in BUDGETS.items() if key in _RETENTION},
    "flops": Metric("FLOPs", "executed FLOPs of all parts, mean per sample"),
    **{f"flops_{part}": Metric("FLOPs", f"executed FLOPs of {part}, mean per sample") for part in FLOPS},
    "cost_per_correct": Metric("FLOPs", "executed FLOPs for each correct answer", judged=True),
    "seconds": Metric("s", "seconds of prefill and decode, mean per sample"),
    "prefill_seconds": Metric("s", "seconds of prefill, mean per sample"),
    "decode_seconds": Metric("s", "seconds of decode, mean per sample"),
    **{f"kv_{kind}": Metric("B", f"{kind} KV cache, mean per sample") for kind in ("visible", "resident", "allocated")},
    "trace_length": Metric("tokens", "median tokens written"),
    "truncated": Metric(PERCENT, "replies cut off at the token limit"),
    "unparsed": Metric(PERCENT, "replies in which the official rule found no answer"),
    "evidence": Metric(SHARE, "evidence recall, mean over layers"),
}


def metric_of(name: str) -> Metric:
    """A metric by name: one of `METRICS`, or pass@k and mean@k for any k."""
    if (at := parse(name)) is None:
        return METRICS[name]
    meaning = {
        "pass": f"chance that one of {at[1]} replies is right, 1 - C(n - c, k) / C(n, k)",
        "mean": f"accuracy, mean of the first {at[1]} replies to a sample",
    }[at[0]]
    return Metric(PERCENT, f"{meaning}; with its 95 % interval by sample", judged=True, tested=True)


@dataclass(frozen=True)
class Asked:
    """What a pivot table was asked to show; the arguments of `pivot`."""

    rows: str
    cols: str
    metric: str
    against: str
    margin: float
    budget: str

    @property
    def banded(self) -> bool:
        """Whether rows are methods with budgets, and so belong to bands."""
        return self.rows == "method" and self.cols != "keep"

    @property
    def relative(self) -> bool:
        """Whether rows have a mean over benchmarks."""
        return self.metric == "accuracy" and self.cols == "benchmark" and self.rows in {"method", "addon", "keep"}

    @property
    def heading(self) -> str:
        """Title of the whole."""
        return f"{self.metric.capitalize()}: {self.rows} by {self.cols}".replace("_", " ")


@dataclass(frozen=True)
class Grid(Table):
    """One section; a row holds its cells under `cells`, by column."""

    frame: pd.DataFrame
    asked: Asked

    def columns(self, brief: bool = False) -> list[Column]:
        """The names of a row, one column per value of `cols`, and for accuracies the cost and the fronts."""
        summary = _summary(self.every, brief) if self.asked.metric == "accuracy" else []
        return [*_keys(self.asked, self.every), *self._values(brief), *summary]

    def _values(self, brief: bool) -> Iterator[Column]:
        here = self.frame[self.frame.section == self.title]
        for (name, keep), part in here.groupby(COLUMN, sort=False):
            sizes = {int(n) for n in part.n if n}
            below = keep or (f"N {min(sizes)}" if len(sizes) == 1 else "")
            text = _text(self.asked.metric, (name, keep), self.every, brief)
            sign = " †" if self.asked.cols == "method" and part.method.isin(caption.DIAGNOSTIC).all() else ""
            yield Column((f"{name}{sign}", str(below)), text, COMPARISON)


def grids(frame: pd.DataFrame, asked: Asked) -> list[Grid]:
    """The sections of a pivot frame."""
    every = [_row(part) for _, part in frame.groupby(ROW, sort=False)]
    titles = dict.fromkeys(row["section"] for row in every)
    return [Grid(title, [row for row in every if row["section"] == title], every, frame, asked) for title in titles]


def _row(cells: pd.DataFrame) -> Row:
    first = cells.iloc[0]
    whole = len(cells)
    row = {key: first[key] for key in (*ROW, "method", "band", "budget")}
    row |= {"cells": {(cell["column"], cell["column_budget"]): cell for cell in cells.to_dict("records")}}
    row |= {key: first.get(key, math.nan) for key in ("relative", "relative_low", "relative_high")}
    row |= {cost: cells[cost].mean(skipna=False) for cost in COSTS}
    counts = {sign: int(cells[f"front_{cost}"].sum()) for cost, sign in COSTS.items()}
    of = [sign + (f" {n}/{whole}" if whole > 1 else "") for sign, n in counts.items() if n]
    return row | {"front": ", ".join(of) or NONE, "whole": whole}


def _keys(asked: Asked, rows: Sequence[Row]) -> list[Column]:
    def name(row: Row) -> str:
        diagnostic = asked.rows == "method" and row["method"] in caption.DIAGNOSTIC
        return f"{row['row']} †" if diagnostic else str(row["row"])

    named = [Column(("", asked.rows), name, KEYS, left=True)]
    if any(row["row_budget"] for row in rows):
        named += [Column(("", "keep"), lambda row: str(row["row_budget"]), KEYS)]
    if not asked.banded:
        return named
    if asked.budget in _RETENTION:
        shown = Column(("ret.", _RETENTION[asked.budget]), decimals("budget", 2), KEYS)
    else:
        shown = _scaled(("", "FLOPs"), "budget", rows, KEYS)
    return [Column(("", "band"), lambda row: str(row["band"]), KEYS), *named, shown]


def _summary(rows: Sequence[Row], brief: bool) -> list[Column]:
    """Relative accuracy, cost and fronts; means stay out (-) where a row has not all columns."""
    most: dict[str, int] = {}
    for row in rows:
        most[row["section"]] = max(row["whole"], most.get(row["section"], 0))
    full = [row if row["whole"] == most[row["section"]] else row | dict.fromkeys(COSTS, math.nan) for row in rows]
    known = {tuple(row[key] for key in ROW): row for row in full}

    def of(column: Column) -> Column:
        return Column(column.head, lambda row: column.text(known[tuple(row[k] for k in ROW)]), column.group)

    heads = ("relative %", "± 95 %" if brief else "[95 %]")
    relative = Column(heads, lambda row: interval(row, "relative", "{:.1f}", brief), "summary")
    return [
        *([relative] if any(not math.isnan(row["relative"]) for row in rows) else []),
        of(_scaled(("", "FLOPs"), "flops", full, "summary")),
        Column(("seconds", "/sample"), of(_scaled(("", "s"), "seconds", full, "summary")).text, "summary"),
        Column(("", "front"), lambda row: str(row["front"]), "summary", left=True),
    ]


def _scaled(head: tuple[str, str], key: str, rows: Sequence[Row], group: str) -> Column:
    """A column of numbers with SI prefix, three digits for the largest."""
    letter, unit = si(head[1], largest(rows, key))
    return Column((head[0], letter + head[1]), decimals(key, places(largest(rows, key) / unit), unit), group)


def si(name: str, top: float) -> tuple[str, float]:
    """Prefix and size of a unit, for the largest number of a column; only FLOPs and bytes take prefixes."""
    return prefix(top) if name in {"FLOPs", "B"} else ("", 1.0)


def _text(metric: str, column: object, rows: Sequence[Row], brief: bool) -> Callable[[Row], str]:
    """What a row shows in a column."""
    shown = metric_of(metric)
    special = (
        partial(_tested, own=parse(metric) is not None)
        if shown.tested
        else _length
        if metric == "trace_length"
        else None
    )
    number = _number(shown.unit, [cell for row in rows for cell in row["cells"].values()])

    def text(row: Row) -> str:
        cell = row["cells"].get(column)
        if cell is None or math.isnan(cell["value"]):
            return NONE
        return special(cell, brief) if special else number(cell)

    return text


def _number(unit: str, cells: Sequence[Row]) -> Callable[[Row], str]:
    if unit == PERCENT:
        return lambda cell: percent(cell["value"])
    if unit == SHARE:
        return decimals("value", 2)
    top = largest(cells, "value")
    letter, size = si(unit, top)
    number = decimals("value", places(top / size), size)
    return lambda cell: f"{number(cell)} {letter}{unit}"


def _tested(cell: Row, brief: bool, own: bool) -> str:
    """The value, with an interval of its `own` if asked for, and its difference to the reference."""
    value = interval(cell, "accuracy", "{:.1f}", brief) if own else percent(cell["value"])
    if math.isnan(cell["p"]):
        return value
    noise = "" if math.isnan(cell["noise"]) else f", flips {percent(cell['noise'])}"
    return f"{value} ({difference(cell, brief)}{noise}) {SIGNS[cell['verdict']]}"


def _length(cell: Row, brief: bool) -> str:
    parts = [f"{percent(cell['truncated'])} % cut"]
    for name in ("finished", "right"):
        value, low, high = (cell[f"{name}_{key}"] for key in ("ratio", "ratio_low", "ratio_high"))
        if not math.isnan(value):
            ends = f"± {max(value - low, high - value):.2f}" if brief else f"[{low:.2f}, {high:.2f}]"
            parts += [f"{'right ' if name == 'right' else ''}×{value:.2f} {ends}"]
    return f"{cell['value']:g} ({', '.join(parts)})"
