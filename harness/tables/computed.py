"""Published costs that need no weights: what the paper prints, its formula's value, and what a run executes.

    table = compute(experiment.computed, Published.read().rows)
    table.print()              # also table.to_markdown(), table.to_latex(), table.frame

An entry of `computed:` names a printed value and a formula of `harness.accounting.published`:

    - {row: p0355, formula: dstp.prefill, tokens: 576}     # row and tokens may be lists
    - {model: llava_1_5_7b, method: fastv, tokens: [192, 128, 64], formula: btp}     # not printed anywhere

`schedule` counts the tokens of each layer as another method does (`flat`: the same everywhere); `against` says what
the printed difference to another row means for the tokens read.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from itertools import product
from typing import Any, TypeVar

import pandas as pd

from harness.accounting.published import FORMULAS, Formula, executed, per_layer
from harness.accounting.sizes import DIMS
from harness.runs.errors import InputError
from harness.runs.typed import build
from harness.tables.computed_table import STEPS, TEXT, Computed, ComputedTable
from harness.tables.frames import TablesError

__all__ = ["Computed", "ComputedTable", "Entry", "agreement", "compute"]

UNITS = {"TFLOPs": 1e12, "GFLOPs": 1e9, "GB": 1e9, "MB": 1e6, "%": 0.01}
DIGITS = 2  # where nothing is printed
T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """An entry of `computed:`. What a row does not tell (its tokens, if it prints a ratio) stands here."""

    formula: str
    row: str | tuple[str, ...] = ""
    model: str = ""
    method: str = ""
    tokens: int | tuple[int, ...] | None = None
    full: int = 576
    schedule: str = ""
    text: int | None = None
    steps: int | None = None
    share: float | None = None
    against: str = ""
    note: str = ""


def compute(entries: Sequence[Mapping[str, Any]], published: pd.DataFrame) -> ComputedTable:
    """Every entry beside its row.

    Args:
        entries: the list `computed` of an experiment.
        published: the rows of results/published (`Published.rows`).

    Raises:
        InputError: a malformed entry; as TablesError: an unknown row, formula, model or schedule.
    """
    rows = published.set_index("row_id")
    return ComputedTable(tuple(line for plain in entries for line in _lines(build(Entry, plain, "computed"), rows)))


def agreement(value: float, printed: str) -> tuple[str, str]:
    """The value with as many digits as printed, and how it gives the printed text.

    "" stands for neither rounded nor truncated.
    """
    digits = len(printed.partition(".")[2])
    rounded = f"{value:.{digits}f}"
    truncated = str(Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_DOWN))
    if printed == rounded:
        return rounded, "rounded"
    return (truncated, f"truncated (rounded: {rounded})") if printed == truncated else (rounded, "")


def _lines(entry: Entry, rows: pd.DataFrame) -> Iterator[Computed]:
    names = (entry.row,) if isinstance(entry.row, str) else entry.row
    budgets = entry.tokens if isinstance(entry.tokens, tuple) else (entry.tokens,)
    for name, tokens in product(names, budgets):
        try:
            row, against = (_find(rows, key) for key in (name, entry.against))
            yield _line(entry, row, against, tokens)
        except ValueError as error:  # of a schedule; an InputError says enough
            if isinstance(error, InputError):
                raise
            raise TablesError(f"computed {name or entry.formula}: {error}") from None


def _line(entry: Entry, row: Mapping[str, Any], against: Mapping[str, Any], tokens: int | None) -> Computed:
    model, method = entry.model or row.get("model_id", ""), entry.method or row.get("method_id", "")
    formula, d = _choose(FORMULAS, entry.formula, "formula"), _choose(DIMS, model, "model with known sizes")
    tokens = _tokens(row, entry.full) if tokens is None else tokens
    seen = per_layer(method, tokens, d.depth, entry.full)
    counted = per_layer(entry.schedule or method, tokens, d.depth, entry.full)
    unit = row.get("unit_printed") or {"kv": "MB", "reduction": "%"}.get(formula.of, "TFLOPs")
    value = formula.value(d, counted, **_options(entry, formula)) / _choose(UNITS, unit, "unit")
    printed = row.get("value_printed", "")
    text, how = agreement(value, printed) if printed else (f"{value:.{DIGITS}f}", "")
    of = "prefill" if formula.of == "reduction" else formula.of
    run, unpruned = (
        executed(d, lengths, of, full=entry.full, text=TEXT, steps=STEPS) for lengths in (seen, [entry.full] * d.depth)
    )
    name, addon = row.get("row_id", ""), row.get("addon_id", "")
    notes = [
        entry.note,
        _difference(row, against, entry.full - tokens) if row and against else "",
        addon and f"executed: {method} alone, without {addon}",
    ]
    return Computed(
        row=name, source=" ".join(filter(None, (row.get("paper_id"), row.get("table_id"), name))), model=model,
        method="+".join(filter(None, (method, addon))), budget=row.get("budget_printed") or f"{tokens} tokens",
        formula=entry.formula, unit=unit, printed=printed, value=value, computed=text,
        agrees=bool(how) if printed else None,
        verdict=(how or f"does not follow: formula gives {text}") if printed else "",
        tokens=sum(seen) / d.depth, executed=run, share=run / unpruned, note="; ".join(filter(None, notes)),
    )  # fmt: skip


def _find(rows: pd.DataFrame, name: str) -> dict[str, Any]:
    if name and name not in rows.index:
        raise TablesError(f"computed: no row {name} in the published tables")
    return dict(rows.loc[name], row_id=name) if name else {}


def _choose(known: Mapping[str, T], name: str, what: str) -> T:
    if name not in known:
        raise TablesError(f"computed: no {what} {name or '(none)'}; known: {', '.join(known)}")
    return known[name]


def _tokens(row: Mapping[str, Any], full: int) -> int:
    if row.get("budget_kind") == "full":
        return full
    if row.get("budget_kind") not in ("tokens", "layer_mean"):
        raise ValueError("tokens= is missing")
    return int(float(row["budget_value"]))


def _options(entry: Entry, formula: Formula) -> dict[str, float]:
    """What the formula takes besides the tokens of each layer."""
    takes = inspect.signature(formula.value).parameters
    given = {key: value for key in ("text", "steps", "share") if (value := getattr(entry, key)) is not None}
    if unused := [key for key in given if key not in takes]:
        raise TablesError(f"computed: formula {entry.formula} takes no {', '.join(unused)}")
    if missing := [k for k, p in takes.items() if p.kind == p.KEYWORD_ONLY and p.default is p.empty and k not in given]:
        raise TablesError(f"computed: formula {entry.formula} needs {', '.join(missing)}")
    return given | ({"full": entry.full} if "full" in takes else {})


def _difference(row: Mapping[str, Any], against: Mapping[str, Any], fewer: int) -> str:
    """What the printed difference of two decode costs says: of keys and values' width, or of the tokens read.

    The attention term costs 2 x width per layer, step and token read. An add-on's tokens are not known beforehand.
    """
    d = DIMS[row["model_id"]]
    width, digits = d.kv_heads * d.head_dim, len(row["value_printed"].partition(".")[2])
    gap = float(against["value_printed"]) - float(row["value_printed"])
    ends = [(gap + sign * 10.0**-digits) * 1e12 / (2 * d.depth * STEPS) for sign in (-1, 1)]
    said = f"{gap:.{digits}f} ± {10.0**-digits:.{digits}f} T less than {against['row_id']}"
    if row["addon_id"]:
        low, high = (end / width for end in ends)
        return f"{said}: {low:.0f} to {high:.0f} tokens fewer at a key/value width of {width}"
    low, high = (end / fewer for end in ends)
    return (
        f"{said} over {fewer} fewer tokens: key/value width {low:.0f} to {high:.0f}; the model's is {width}, "
        f"the formula's {d.hidden}"
    )
