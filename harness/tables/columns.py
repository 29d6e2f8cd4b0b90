"""The columns of a leaderboard: headings, the text of every cell, and which columns belong together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.benchmarks import scoring
from harness.tables.caption import DIAGNOSTIC
from harness.tables.frames import FLOPS

Row = dict[str, Any]
NONE = "-"
KEYS, COMPARISON = "keys", "comparison"
"""Groups: the columns repeated in every block, and those printed first; the others are replies, retention and cost."""


@dataclass(frozen=True)
class Column:
    """A column: its heading in two lines, the text of a row, and the group it stays with."""

    head: tuple[str, str]
    text: Callable[[Row], str]
    group: str
    left: bool = False


@dataclass(frozen=True)
class Table:
    """One section; `every` holds the rows of all of them."""

    title: str
    rows: list[Row]
    every: list[Row]

    def columns(self, brief: bool = False) -> list[Column]:
        """All columns, in order; `brief` writes intervals as ± their longer arm."""
        raise NotImplementedError


@dataclass(frozen=True)
class Section(Table):
    """One section of a leaderboard; `rest` are the columns after the comparison."""

    rest: list[Column]

    def columns(self, brief: bool = False) -> list[Column]:
        return [*_keys(), *_comparison(brief, self.rows), *self.rest]


def rest(every: Sequence[Row]) -> list[Column]:
    """Replies, retention and cost; units and decimals are chosen once for all rows of a leaderboard."""
    return [*_replies(every), *_retention(every), *_cost(every)]


def _keys() -> list[Column]:
    return [
        Column(("", "method"), _label, KEYS, left=True),
        Column(("", "keep"), budget, KEYS),
    ]


def _comparison(brief: bool, rows: Sequence[Row]) -> list[Column]:
    ends = "± 95 %" if brief else "[95 %]"
    metric = rows[0]["metric"]
    special = Column(
        (f"{metric} {scoring.unit(metric)}", ends),
        lambda row: interval(row, "metric_value", "{:.1f}", brief),
        COMPARISON,
    )
    noise = [Column(("noise", "flips %"), lambda row: percent(row["noise"]), COMPARISON)]
    return [
        Column(("", "N"), lambda row: str(row["n"]), COMPARISON),
        *([] if metric == "mean" else [special]),
        Column(("accuracy %", ends), lambda row: interval(row, "accuracy", "{:.1f}", brief), COMPARISON),
        Column(("Δ points", ends), lambda row: difference(row, brief), COMPARISON),
        *(noise if any(not math.isnan(row.get("noise", math.nan)) for row in rows) else []),
        Column(("p", "Holm"), lambda row: _p(row["p_holm"]), COMPARISON),
        Column(("", "verdict"), lambda row: or_none(row["verdict"], str), COMPARISON, left=True),
    ]


def _replies(rows: Sequence[Row]) -> list[Column]:
    lenient = [Column(("lenient", "%"), lambda row: percent(row["lenient"]), "replies")]
    unjudged = [Column(("", "unjudged"), lambda row: str(row["unjudged"]), "replies")]
    return [
        *(lenient if any(row["lenient"] != row["accuracy"] for row in rows if row["n"]) else []),
        *(unjudged if any(row["unjudged"] for row in rows) else []),
        Column(("unparsed", "%"), lambda row: percent(row["unparsed"]), "replies"),
        Column(("trunc.", "%"), lambda row: percent(row["truncated"]), "replies"),
        Column(("", "failed"), lambda row: str(row["failed"]), "replies"),
        Column(("", "length"), lambda row: or_none(row["trace_length"], "{:g}".format), "replies"),
    ]


def _retention(rows: Sequence[Row]) -> list[Column]:
    names = {"ret_nominal": "nominal", "ret_prefill": "prefill", "ret_decode": "decode", "kv": "KV"}
    columns = [Column(("ret.", name), decimals(key, 2), "retention") for key, name in names.items()]
    if any(not math.isnan(row["evidence"]) for row in rows):
        columns.append(Column(("evid.", "recall"), decimals("evidence", 2), "retention"))
    return columns


def _cost(rows: Sequence[Row]) -> list[Column]:
    flops = [f"flops_{part}" for part in FLOPS]
    letter, unit = prefix(max(largest(rows, key) for key in flops))
    kv_letter, kv_unit = prefix(largest(rows, "kv_resident"))
    return [
        *(
            Column((f"{letter}FLOPs", part), decimals(key, places(largest(rows, key) / unit), unit), "cost")
            for key, part in zip(flops, FLOPS, strict=True)
        ),
        Column(
            ("KV", f"{kv_letter}B"),
            decimals("kv_resident", places(largest(rows, "kv_resident") / kv_unit), kv_unit),
            "cost",
        ),
        Column(("seconds", "/sample"), decimals("seconds", places(largest(rows, "seconds"))), "cost"),
    ]


def percent(share: float) -> str:
    """A share 0..1 in per cent with one decimal."""
    return or_none(share, lambda x: f"{100 * x:.1f}")


def _label(row: Row) -> str:
    return f"{row['label']} †" if row["method"] in DIAGNOSTIC else str(row["label"])


def budget(row: Row) -> str:
    """The budget asked for: tokens, or the share of them."""
    if not math.isnan(row["tokens"]):
        return f"{row['tokens']:g} tok"
    return or_none(row["keep"], "{:.3g}".format)


def interval(row: Row, key: str, form: str, brief: bool) -> str:
    """A share in points with its two ends, or ± the longer arm."""
    if math.isnan(row[key]):
        return NONE
    value, low, high = (round(100 * row[k], 1) + 0.0 for k in (key, f"{key}_low", f"{key}_high"))  # no -0.0
    if brief:
        return f"{form.format(value)} ± {max(value - low, high - value):.1f}"
    return f"{form.format(value)} [{form.format(low)}, {form.format(high)}]"


def difference(row: Row, brief: bool) -> str:
    """In points with its interval, and the number of pairs where that is not N."""
    return interval(row, "difference", "{:+.1f}", brief) + (f" ({row['pairs']:g})" if row["pairs"] < row["n"] else "")


def _p(p: float) -> str:
    return or_none(p, lambda x: "<.001" if x < 0.001 else f"{x:.3f}".removeprefix("0"))


def or_none(value: Any, text: Callable[[Any], str]) -> str:
    """The text of a value, `NONE` without one."""
    return NONE if not isinstance(value, str) and math.isnan(value) else text(value)


def decimals(key: str, places: int, unit: float = 1.0) -> Callable[[Row], str]:
    """The text of a number with so many decimals, in a unit."""
    return lambda row: or_none(row[key], lambda x: f"{x / unit:.{places}f}")


def largest(rows: Sequence[Row], key: str) -> float:
    """The largest value of a column, 0 if it has none."""
    return max((row[key] for row in rows if not math.isnan(row[key])), default=0.0)


def prefix(top: float) -> tuple[str, float]:
    """SI prefix in which the largest value of a column has one to three digits before the point."""
    for prefix, unit in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if top >= unit:
            return prefix, unit
    return "", 1.0


def places(top: float) -> int:
    """Decimals that leave the largest value of a column three significant digits."""
    return min(3, max(0, 2 - math.floor(math.log10(top)))) if top > 0 else 0
