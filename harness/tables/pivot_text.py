"""The columns of a pivot table as text, and the sentences below it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from harness.tables import caption
from harness.tables.bands import BUDGETS, TOLERANCE
from harness.tables.columns import (
    COMPARISON,
    KEYS,
    NONE,
    Column,
    Row,
    Table,
    budget,
    decimals,
    difference,
    largest,
    or_none,
    percent,
    places,
    prefix,
)
from harness.tables.frames import FLOPS
from harness.tables.pareto import CEILINGS, COSTS
from harness.tables.render import SIGNS

ROW, COLUMN = ["section", "row", "row_budget"], ["column", "column_budget"]
PERCENT, SHARE = "%", "share"
_RETENTION = {"ret_nominal": "nominal", "ret_prefill": "prefill", "ret_decode": "decode", "kv": "KV"}


@dataclass(frozen=True)
class Metric:
    """What a cell shows, in which unit (`PERCENT`, `SHARE` or a name), and whether all samples must be judged."""

    unit: str
    meaning: str
    judged: bool = False


METRICS = {
    "accuracy": Metric(PERCENT, "accuracy by the official rule", judged=True),
    "headline": Metric(PERCENT, "the benchmark's headline metric; no test", judged=True),
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
        summary = _summary(self.every) if self.asked.metric == "accuracy" else []
        return [*_keys(self.asked, self.every), *self._values(brief), *summary]

    def _values(self, brief: bool) -> Iterator[Column]:
        here = self.frame[self.frame.section == self.title]
        for (name, keep), part in here.groupby(COLUMN, sort=False):
            sizes = {int(n) for n in part.n if n}
            below = keep or (f"N {min(sizes)}" if len(sizes) == 1 else "")
            text = _text(self.asked.metric, (name, keep), self.every, brief)
            yield Column((str(name), str(below)), text, COMPARISON)


def grids(frame: pd.DataFrame, asked: Asked) -> list[Grid]:
    """The sections of a pivot frame."""
    every = [_row(part) for _, part in frame.groupby(ROW, sort=False)]
    titles = dict.fromkeys(row["section"] for row in every)
    return [Grid(title, [row for row in every if row["section"] == title], every, frame, asked) for title in titles]


def notes(frame: pd.DataFrame, asked: Asked) -> tuple[str, ...]:
    """Caption of a pivot table; sentences that do not apply are left out."""
    metric = METRICS[asked.metric]
    out = [f"{caption.count(len(frame), 'cell')}. {asked.metric}: {metric.meaning}."]
    if asked.metric == "accuracy":
        out += _tests(frame, asked)
    out += [_protocols(frame)]
    if asked.banded:
        out += [_bands(frame, asked)]
    if asked.metric == "accuracy":
        out += _fronts(frame)
    out += caption.scoring(frame) if metric.judged else []
    if frame.failed.sum():
        out += [f"{caption.count(int(frame.failed.sum()), 'sample')} failed and count nowhere."]
    if frame.method.isin(caption.DIAGNOSTIC).any():
        out += ["†: diagnostic, a floor or a ceiling and not a method to use."]
    if frame.benchmark.str.startswith("glyph_").any():
        out += [
            "Self-test (glyph_*): made pictures and a tiny model; says that the harness works, not which method is best."
        ]
    return (*out, "-: not defined, not run, or nothing finished.")


def _row(cells: pd.DataFrame) -> Row:
    first = cells.iloc[0]
    whole = len(cells)
    row = {key: first[key] for key in (*ROW, "method", "band", "budget")}
    row |= {"cells": {(cell["column"], cell["column_budget"]): cell for cell in cells.to_dict("records")}}
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


def _summary(rows: Sequence[Row]) -> list[Column]:
    """Cost and fronts; means stay out (-) where a row has not all columns."""
    most = max(row["whole"] for row in rows)
    full = [row if row["whole"] == most else row | dict.fromkeys(COSTS, math.nan) for row in rows]
    known = {tuple(row[key] for key in ROW): row for row in full}

    def of(column: Column) -> Column:
        return Column(column.head, lambda row: column.text(known[tuple(row[k] for k in ROW)]), column.group)

    return [
        of(_scaled(("", "FLOPs"), "flops", full, "summary")),
        Column(("seconds", "/sample"), of(_scaled(("", "s"), "seconds", full, "summary")).text, "summary"),
        Column(("", "front"), lambda row: str(row["front"]), "summary", left=True),
    ]


def _scaled(head: tuple[str, str], key: str, rows: Sequence[Row], group: str) -> Column:
    """A column of numbers with SI prefix, three digits for the largest."""
    letter, unit = _unit(head[1], largest(rows, key))
    return Column((head[0], letter + head[1]), decimals(key, places(largest(rows, key) / unit), unit), group)


def _unit(name: str, top: float) -> tuple[str, float]:
    return prefix(top) if name in {"FLOPs", "B"} else ("", 1.0)


def _text(metric: str, column: object, rows: Sequence[Row], brief: bool) -> Callable[[Row], str]:
    """What a row shows in a column."""
    if metric == "accuracy":
        one: Callable[[Row], str] = lambda cell: _accuracy(cell, brief)  # noqa: E731
    else:
        one = _number(metric, [cell for row in rows for cell in row["cells"].values()])
    return lambda row: one(row["cells"][column]) if column in row["cells"] else NONE


def _number(metric: str, cells: Sequence[Row]) -> Callable[[Row], str]:
    unit = METRICS[metric].unit
    if unit == PERCENT:
        return lambda cell: percent(cell["value"])
    if unit == SHARE:
        return decimals("value", 2)
    top = largest(cells, "value")
    letter, size = _unit(unit, top)
    number = decimals("value", places(top / size), size)
    return lambda cell: or_none(cell["value"], lambda _: f"{number(cell)} {letter}{unit}".removesuffix(" tokens"))


def _accuracy(cell: Row, brief: bool) -> str:
    value = percent(cell["accuracy"])
    if math.isnan(cell["p"]):
        return value
    return f"{value} ({difference(cell, brief)}) {SIGNS[cell['verdict']]}"


def _tests(frame: pd.DataFrame, asked: Asked) -> list[str]:
    compared = frame[frame.p.notna()]
    if compared.empty:
        return []
    target = {"full": "the full model", "base": "the method without its add-on"}.get(
        asked.against, f"{asked.against}, same budget"
    )
    out = [
        f"In brackets: paired difference to {target} in points and its 95 % interval by paired cluster bootstrap. "
        f"p: {caption.join(frame.test)}, Holm-adjusted over {caption.count(len(compared), 'compared cell')}.",
        f"At the 5 % level: = equivalent, shown to be within ±{caption.count(asked.margin, 'point')} (TOST, likewise "
        "adjusted); ↓ worse or ↑ better, p < 0.05 and not equivalent; ? inconclusive, neither shown.",
    ]
    if (compared.pairs < compared.n).any():
        out += ["(n): pairs, where fewer than N samples were common to both cells."]
    return out


def _protocols(frame: pd.DataFrame) -> str:
    used = {str(name): ", ".join(sorted(set(part.benchmark))) for name, part in frame.groupby("protocol")}
    if len(used) == 1:
        return f"Protocol: {next(iter(used))}."
    return f"Protocols: {'; '.join(f'{name} for {benchmarks}' for name, benchmarks in used.items())}."


def _bands(frame: pd.DataFrame, asked: Asked) -> str:
    ranges = []
    for band, part in frame[~frame.band.isin(["full", "-"])].groupby(frame.band, sort=False):
        low, high = part.budget.min(), part.budget.max()
        letter, unit = _unit("FLOPs" if asked.budget == "flops" else "", high)
        ends = dict.fromkeys(f"{end / unit:.3g}" for end in (low, high))
        ranges += [f"{band}: {' to '.join(ends)}{f' {letter}FLOPs' if asked.budget == 'flops' else ''}"]
    out = (
        f"Bands of equal {asked.budget} ({BUDGETS[asked.budget]}; mean over the columns): at most "
        f"{100 * TOLERANCE:g} % below the largest of the band. Compare methods inside a band only."
    )
    return f"{out} {'; '.join(ranges)}." if ranges else out


def _fronts(frame: pd.DataFrame) -> list[str]:
    """What the fronts mean, and who stands on them."""
    several = frame.groupby("title").machine.nunique() > 1
    both = frame.title[frame.machine.str.contains(" and ", regex=False, na=False)]
    mixed = sorted({*several.index[several], *both})
    out = [
        "front: of all budgets, no cell is as accurate and as cheap and better in one of the two; T: executed FLOPs, "
        "s: seconds, with the number of columns. Point estimates; intervals may overlap."
    ]
    if frame.method.isin(CEILINGS).any():
        out += [f"{' and '.join(sorted(CEILINGS & set(frame.method)))}: on no front, not to be reached by a method."]
    where = [axis for axis in ("model", "benchmark", "protocol", "decoding") if frame[axis].nunique() > 1]
    for cost, sign in COSTS.items():
        found = [
            f"{_place(part, where)}{_names(part, cost)}" for _, part in frame[frame[f"front_{cost}"]].groupby("title")
        ]
        out += [f"Front {sign}, from cheap to dear: {'; '.join(found)}."] if found else []
    for title in mixed:
        part = frame[frame.title == title]
        seen = ", ".join(sorted(set(part.machine.dropna())))
        out += [f"No front s, {_place(part, where)}seconds were taken on several machines, {seen}."]
    if frame.machine.isna().any():
        out += [f"Machine not recorded for {caption.count(int(frame.machine.isna().sum()), 'cell')}: mind the seconds."]
    return out


def _place(cells: pd.DataFrame, where: Sequence[str]) -> str:
    return " ".join(str(cells.iloc[0][axis]) for axis in where) + ": " if where else ""


def _names(cells: pd.DataFrame, cost: str) -> str:
    rows: list[Row] = cells.sort_values([cost, "label"]).to_dict("records")  # type: ignore[assignment]
    return ", ".join(row["label"] if row["method"] == "none" else f"{row['label']} {budget(row)}" for row in rows)
