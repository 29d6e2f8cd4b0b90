"""Published costs beside their formulas and the executed cost, as a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

import pandas as pd
from rich.console import Console

from harness.tables import render
from harness.tables.columns import COMPARISON, KEYS, NONE, Column, Row, Table

TEXT, STEPS = 60, 1000
"""Text tokens of the prompt and decode steps of the executed figures."""
CAPTION = (
    "Printed and formula: in the paper's own unit, multiply-adds called FLOPs. Executed: 2 FLOPs per multiply-add, GQA "
    f"and gated MLP as they are, tower, projector, {TEXT} text tokens and first logits, or {STEPS} steps of decoding; "
    "without what a method spends on choosing. Caches: bytes of visual keys and values. Tokens: visual ones, mean over "
    "layers. Printed and executed costs are never to be compared."
)


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
class Sheet(Table):
    """The section of a model."""

    def columns(self, brief: bool = False) -> list[Column]:
        """All columns, in order."""
        return [
            Column(("", "method"), lambda row: row["method"], KEYS, left=True),
            Column(("", "budget"), lambda row: row["budget"].partition(" ")[0], KEYS),
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
