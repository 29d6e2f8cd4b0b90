"""What `vtpbench reproduce` prints: sections of ours beside published, the reasons, the commands still to run."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from harness.runs.compose import Configs
from harness.runs.experiment import Experiment
from harness.tables import caption, render
from harness.tables.columns import COMPARISON, KEYS, NONE, Column, Row, Table
from harness.tables.computed import ComputedTable, compute
from harness.tables.frames import TablesError
from harness.tables.published import Published
from harness.tables.reproduce import Planned, lines
from harness.tables.stored import Stored


@dataclass(frozen=True)
class Reproduction:
    """Experiments beside their papers, ready to be printed.

    Attributes:
        frame: one row per published number (`harness.tables.reproduce.lines`).
        computed: rows that need no weights, by experiment.
        notes: the caption, one sentence a line.
        command: what printed it.
    """

    frame: pd.DataFrame
    computed: dict[str, ComputedTable]
    notes: tuple[str, ...]
    command: str

    def print(self, console: Console | None = None) -> None:
        """Print to a terminal, in as many stacked blocks as its width asks for."""
        console = console or Console()
        for table in self.computed.values():
            table.print(console)
        render.terminal(self._sheets(), self.notes, self.command, console)

    def to_markdown(self) -> str:
        """Sections with Markdown tables, the caption and the command."""
        parts = [table.to_markdown() for table in self.computed.values()]
        return "\n".join([*parts, render.markdown(self._sheets(), self.notes, self.command, "Reproduction")])

    def to_latex(self) -> str:
        """One `table*` per section (needs booktabs)."""
        parts = [table.to_latex() for table in self.computed.values()]
        return "\n".join([*parts, render.latex(self._sheets(), self.notes, self.command)])

    def to_csv(self) -> str:
        """All columns, raw and in full precision; computed rows first, if there are any."""
        parts = [*(table.frame for table in self.computed.values()), self.frame]
        return "\n".join(render.csv(part) for part in parts if len(part))

    def _sheets(self) -> list[Sheet]:
        rows: list[Row] = self.frame.to_dict("records")  # type: ignore[assignment]
        titles = dict.fromkeys(_title(row) for row in rows)
        return [Sheet(title, [row for row in rows if _title(row) == title], rows) for title in titles]


class Sheet(Table):
    """One section: an experiment on a model."""

    def columns(self, brief: bool = False) -> list[Column]:
        """All columns, in order; `brief` writes intervals as ± their longer arm."""
        noise = [Column(("noise", "flips %"), lambda row: _number(round(row["noise"], 1)), "drops")]
        return [
            Column(("", "method"), lambda row: row["method"], KEYS, left=True),
            Column(("", "budget"), lambda row: _budget(row["budget"]), KEYS),
            Column(("", "benchmark"), lambda row: _text(row["benchmark"]), KEYS, left=True),
            Column(("", "metric"), lambda row: _text(row["metric"]), KEYS, left=True),
            Column(("", "published"), lambda row: _text(row["printed"]), COMPARISON),
            Column(("ours", "± 95 %" if brief else "[95 %]"), lambda row: _ours(row, brief), COMPARISON),
            Column(("Δ of drop", "to full"), lambda row: _signed(row["drop_delta"]), COMPARISON),
            Column(("Δ of", "level"), lambda row: _signed(row["level_delta"]), COMPARISON),
            Column(("", "comparable"), lambda row: _comparable(row), COMPARISON, left=True),
            Column(("", "drift"), _drift, COMPARISON, left=True),
            Column(("", "provenance"), lambda row: _text(row["provenance"]), "source", left=True),
            Column(("", "range over papers"), lambda row: _text(row["range"]), "source", left=True),
            Column(("ours", "drop"), lambda row: _signed(row["drop_ours"]), "drops"),
            *(noise if any(not math.isnan(row["noise"]) for row in self.every) else []),
            Column(("publ.", "drop"), lambda row: _signed(row["drop_published"]), "drops"),
            Column(("ours", "N"), lambda row: _number(row["n"]), "drops"),
            Column(("publ.", "N"), lambda row: _number(row["published_n"]), "drops"),
        ]


def reproduction(
    names: Sequence[str],
    configs: Configs,
    results: Path,
    *,
    tiny: bool = False,
    model: Sequence[str] = (),
    benchmark: Sequence[str] = (),
    pruner: Sequence[str] = (),
) -> Reproduction:
    """Experiments beside their papers.

    Args:
        names: experiments.
        results: the results folder.
        tiny: take the tiny models and glyph benchmarks that stand in; cells without a stand-in are listed.
        model, benchmark, pruner: keep cells of these alone; empty keeps all.

    Raises:
        InputError: no such experiment, or one without a published table; as TablesError: no such cell.
    """
    published = Published.read()
    wanted = {"model": model, "benchmark": benchmark, "pruner": pruner}
    asked = [f"{key}={','.join(names)}" for key, names in wanted.items() if names]
    frames, computed = [], {}
    for name in dict.fromkeys(names):
        experiment = Experiment.read(name, configs)
        if not experiment.published:
            raise TablesError(f"experiment {name} names no published table to set beside it")
        if experiment.computed and not asked:
            computed[name] = compute(experiment.computed, published.rows)
        planned = _planned(experiment, configs, tiny, wanted)
        stored = Stored.read(results, [runs.overrides["model"] for _, runs in planned if not runs.missing])
        frames.append(lines(experiment, planned, configs, stored, published))
    frame = pd.concat(frames, ignore_index=True)
    if frame.empty and not computed:
        raise TablesError(f"{', '.join(names)}: no cell with {' '.join(asked)}; there are: {_known(names, configs)}")
    marked, reasons = _marked(frame)
    command = " ".join(["vtpbench reproduce", *names, *asked, *(["--tiny"] if tiny else [])])
    return Reproduction(marked, computed, (*_notes(marked), *reasons, *_to_run(marked)), command)


def _planned(
    experiment: Experiment, configs: Configs, tiny: bool, wanted: Mapping[str, Sequence[str]]
) -> list[Planned]:
    cells = [
        cell for cell in experiment.spans(configs)
        if all(not names or cell.overrides.get(key, "none") in names for key, names in wanted.items())
    ]  # fmt: skip
    if not tiny:
        return [(cell, cell) for cell in cells]
    if experiment.tiny is None:
        raise TablesError(f"experiment {experiment.name} has no tiny stand-ins")
    return [(cell, experiment.tiny.of(cell)) for cell in cells]


def _known(names: Sequence[str], configs: Configs) -> str:
    """What the cells of experiments can be asked for by."""
    spans = [span.overrides for name in names for span in Experiment.read(name, configs).spans(configs)]
    keys = ("model", "benchmark", "pruner")
    return " ".join(f"{key}={','.join(dict.fromkeys(o.get(key, 'none') for o in spans))}" for key in keys)


def _marked(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """With `mark`, the number of the sentence that says why a row is not comparable or has no measured value."""
    why = [
        comparable if str(comparable).startswith("no") else None if state in ("run", "not run") else state
        for comparable, state in zip(frame.comparable, frame.state, strict=True)
    ]
    numbers = {reason: i for i, reason in enumerate(dict.fromkeys(filter(None, why)), 1)}
    said = [f"[{i}] {'comparable: ' * reason.startswith('no (')}{reason}." for reason, i in numbers.items()]
    marks = pd.Series([numbers.get(reason) for reason in why], frame.index, dtype="float64")
    return frame.assign(mark=marks), said


def _notes(frame: pd.DataFrame) -> list[str]:
    out = [
        (
            "Published: as the paper prints it. Δ: ours minus published, of the drop (method minus full model, "
            "either from its own table) and of the level, in points or the metric's unit."
        )
    ]
    if frame["range"].notna().any():
        out += ["Range: distinct values that papers did not copy; copies are counted apart."]
    if frame.drift.notna().any():
        out += [
            (
                "Drift: |ours - published| against sqrt(SE² + p (1 - p) / n), SE from our interval, p the published "
                "share; drifts = beyond it at the 5 % level. Not adjusted for the number of rows."
            )
        ]
    out += caption.noise(frame)
    rows = frame[frame.note.notna()]
    suspects = [f"{', '.join(ids)}: {note}" for note, ids in rows.groupby("note", sort=False).row_id]
    return [*out, f"Suspect: {'; '.join(suspects)}."] if suspects else out


def _to_run(frame: pd.DataFrame) -> list[str]:
    """Commands of the cells that were not run; those that differ in one key alone become one."""
    commands = [tuple(shlex.split(text)) for text in frame.command[frame.state == "not run"].drop_duplicates()]
    for key in ("benchmark", "keep", "tokens", "addon", "pruner", "model"):
        merged: dict[tuple[str, ...], list[str]] = {}
        for command in commands:
            values = [word.partition("=")[2] for word in command if word.startswith(f"{key}=")]
            rest = tuple(f"{key}=" if word.startswith(f"{key}=") else word for word in command)
            merged.setdefault(rest, []).extend(values)
        commands = [
            tuple(f"{key}={','.join(values)}" if word == f"{key}=" else word for word in rest)
            for rest, values in merged.items()
        ]
    return [f"Not run: {shlex.join(command)}" for command in commands]


def _title(row: Row) -> str:
    return f"{row['experiment']} · {row['model']}"


def _text(value: Any) -> str:
    return str(value) if isinstance(value, str) and value else NONE


def _number(value: Any) -> str:
    return NONE if value is None or math.isnan(value) else f"{value:g}"


def _signed(value: Any) -> str:
    return NONE if value is None or math.isnan(value) else f"{round(value, 2) + 0.0:+.2f}"


def _budget(value: Any) -> str:
    return NONE if value is None or math.isnan(value) else f"{value:g} tok" if value > 1 else f"{value:.3g}"


def _ours(row: Row, brief: bool) -> str:
    if math.isnan(row["ours"]):
        return f"- [{row['mark']:g}]" if row["state"] not in ("run", "not run") else row["state"]
    value, low, high = (row[key] for key in ("ours", "ours_low", "ours_high"))
    if math.isnan(low):
        return f"{value:.2f}"
    return f"{value:.2f} ± {max(high - value, value - low):.1f}" if brief else f"{value:.2f} [{low:.1f}, {high:.1f}]"


def _comparable(row: Row) -> str:
    if not isinstance(row["comparable"], str):
        return NONE
    return "yes" if row["comparable"] == "yes" else f"no [{row['mark']:g}]"


def _drift(row: Row) -> str:
    return f"{row['drift']} (z {row['z']:.1f})" if isinstance(row["drift"], str) else NONE
