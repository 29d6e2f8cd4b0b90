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
from dataclasses import asdict, dataclass, fields
from decimal import ROUND_DOWN, Decimal
from itertools import product
from typing import Any, TypeVar

import pandas as pd
from rich.console import Console

from harness.accounting.published import FORMULAS, Formula, executed, per_layer
from harness.accounting.sizes import DIMS
from harness.runs.errors import InputError
from harness.runs.typed import build
from harness.tables import render
from harness.tables.columns import COMPARISON, KEYS, NONE, Column, Row
from harness.tables.frames import TablesError

T = TypeVar("T")

TEXT, STEPS = 60, 1000
"""Text tokens of the prompt and decode steps of the executed figures."""
CAPTION = (
    "Printed and formula: in the paper's own unit, multiply-adds called FLOPs. Executed: 2 FLOPs per multiply-add, GQA "
    f"and gated MLP as they are, tower, projector, {TEXT} text tokens and first logits, or {STEPS} steps of decoding; "
    "without what a method spends on choosing. Caches: bytes of visual keys and values. Tokens: visual ones, mean over "
    "layers. Printed and executed costs are never to be compared."
)
UNITS = {"TFLOPs": 1e12, "GFLOPs": 1e9, "MB": 1e6, "%": 0.01}
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


@dataclass(frozen=True)
class Computed:
    """One printed value beside its formula.

    Attributes:
        row, source: row_id; paper and table. Empty where nothing is printed.
        printed: as printed. Empty where nothing is.
        value, computed: of the formula, in `unit`, and with as many digits as printed.
        agrees: whether the formula gives what is printed; None where nothing is.
        verdict: rounded or truncated to the printed digits, or what the formula gives instead.
        tokens: visual tokens as executed, mean over layers.
        executed: FLOPs (2 per multiply-add) or bytes by our own closed form; `share` of the full model's.
    """

    row: str
    source: str
    model: str
    method: str
    budget: str
    formula: str
    unit: str
    printed: str
    value: float
    computed: str
    agrees: bool | None
    verdict: str
    tokens: float
    executed: int
    share: float
    note: str


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


@dataclass(frozen=True)
class ComputedTable:
    """Formulas beside what is printed, one section per model."""

    rows: tuple[Computed, ...]

    @property
    def frame(self) -> pd.DataFrame:
        """One row per line, raw and in full precision."""
        return pd.DataFrame([asdict(row) for row in self.rows], columns=[field.name for field in fields(Computed)])

    def print(self, console: Console | None = None) -> None:
        """Print to a terminal, in as many stacked blocks as its width asks for."""
        render.terminal(self._sheets(), self.notes, None, console or Console())

    def to_markdown(self) -> str:
        """Sections with Markdown tables, then the notes."""
        return render.markdown(self._sheets(), self.notes, None, "Costs that need no weights")

    def to_latex(self) -> str:
        """One `table*` per section (needs booktabs)."""
        return render.latex(self._sheets(), self.notes, None)

    @property
    def notes(self) -> tuple[str, ...]:
        """The caption, one sentence a line; remarks on lines by their rows."""
        said: dict[str, list[str]] = {}
        for row in filter(lambda row: row.note, self.rows):
            said.setdefault(row.note, []).append(row.row or f"{row.method} at {row.budget}")
        return (CAPTION, *(f"{', '.join(dict.fromkeys(names))}: {note}." for note, names in said.items()))

    def _sheets(self) -> list[Sheet]:
        lines: list[Row] = [asdict(row) for row in self.rows]
        models = dict.fromkeys(row.model for row in self.rows)
        return [
            Sheet(f"Costs that need no weights · {m}", [r for r in lines if r["model"] == m], lines) for m in models
        ]


@dataclass(frozen=True)
class Sheet:
    """The section of a model."""

    title: str
    rows: list[Row]
    every: list[Row]

    def columns(self, brief: bool = False) -> list[Column]:
        """All columns, in order."""
        return [
            Column(("", "method"), lambda row: row["method"], KEYS, left=True),
            Column(("", "budget"), lambda row: row["budget"], KEYS),
            Column(("", "formula"), lambda row: row["formula"], KEYS, left=True),
            Column(("", "printed"), lambda row: row["printed"] or NONE, COMPARISON),
            Column(("formula", "gives"), lambda row: f"{row['computed']} {row['unit']}", COMPARISON),
            Column(("printed digits", "agree"), lambda row: row["verdict"] or NONE, COMPARISON, left=True),
            Column(("", "source"), lambda row: row["source"] or NONE, "source", left=True),
            Column(("executed", "tokens"), lambda row: f"{row['tokens']:.1f}", "executed"),
            Column(("executed", "cost"), _cost, "executed"),
            Column(("of full", "%"), lambda row: f"{100 * row['share']:.1f}", "executed"),
        ]


def _cost(row: Row) -> str:
    return f"{row['executed'] / 1e6:.1f} MB" if row["unit"] == "MB" else f"{row['executed'] / 1e12:.2f} TFLOPs"


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
    value = formula.value(d, counted, **_options(entry, formula)) / UNITS[unit]
    printed = row.get("value_printed", "")
    text, how = agreement(value, printed) if printed else (f"{value:.{DIGITS}f}", "")
    of = "prefill" if formula.of == "reduction" else formula.of
    run, unpruned = (
        executed(d, lengths, of, full=entry.full, text=TEXT, steps=STEPS) for lengths in (seen, [entry.full] * d.depth)
    )
    name, addon = row.get("row_id", ""), row.get("addon_id", "")
    notes = [
        entry.note,
        entry.against and _difference(row, against, entry.full - tokens),
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
