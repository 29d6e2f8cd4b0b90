"""The leaderboard: a row per cell with accuracy and interval, paired difference and verdict, retention, real cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from harness.runs.overview import read_noise
from harness.tables import caption, render
from harness.tables.at_k import collapsed
from harness.tables.columns import Row, Section, Table, rest
from harness.tables.compared import compare
from harness.tables.frames import TablesError, load, runs_folder, varying

_NESTED = ("scoring", "assumed", "changed", "setting", "params", "config")


@dataclass(frozen=True)
class Leaderboard:
    """A leaderboard ready to be printed.

    Attributes:
        frame: one row per cell, raw values: the columns of `cells_frame`, those of `compare`, then noise (the share of
            answers that flip when a cell runs again, if known), title (its section) and label. Accuracies, differences
            and shares are 0..1.
        notes: the caption, one sentence a line.
        command: what printed it, if known.
    """

    frame: pd.DataFrame
    notes: tuple[str, ...]
    command: str | None = None

    def to_markdown(self) -> str:
        """Sections with padded Markdown tables, the caption and the command."""
        return render.markdown(self._tables(), self.notes, self.command)

    def to_latex(self) -> str:
        """One `table*` per section (needs booktabs)."""
        return render.latex(self._tables(), self.notes, self.command)

    def to_csv(self) -> str:
        """All columns, raw and in full precision; dictionaries as JSON."""
        plain = self.frame.assign(**{key: self.frame[key].map(_dump) for key in _NESTED})
        return render.csv(plain)

    def print(self, console: Console | None = None) -> None:
        """Print to a terminal, in as many stacked blocks as its width asks for."""
        render.terminal(self._tables(), self.notes, self.command, console or Console())

    def _tables(self) -> list[Table]:
        rows: list[Row] = self.frame.to_dict("records")  # type: ignore[assignment]
        titles = dict.fromkeys(row["title"] for row in rows)
        shared = rest(rows)
        return [Section(title, [row for row in rows if row["title"] == title], rows, shared) for title in titles]


def leaderboard(
    results: Path,
    *,
    models: Sequence[str] = (),
    benchmarks: Sequence[str] = (),
    margin: float = 1.0,
    against: str = "full",
    protocol: str | None = None,
    command: str | None = None,
) -> Leaderboard:
    """Compare all cells of a results folder.

    Only samples of the same model, benchmark, protocol and decoding, with all their parameters, are ever paired.

    Args:
        results: the results folder.
        models, benchmarks: names or globs to keep; empty keeps all.
        margin: of equivalence, in points (hundredths of accuracy).
        against: "full" (no pruning, no add-on), "base" (the same method and budget without its add-on), or the name of
            a method, which then is taken at the same budget.
        protocol: the only one to keep, as "vtp" or "vtp/1".
        command: put below the table as the way to make it again.

    Raises:
        TablesError: nothing to print, or nothing called `against`.
    """
    frame, _ = compared(results, models, benchmarks, margin=margin, against=against, protocol=protocol)
    return Leaderboard(frame, caption.notes(frame, margin, against), command)


def compared(
    results: Path,
    models: Sequence[str],
    benchmarks: Sequence[str],
    *,
    margin: float,
    against: str,
    protocol: str | None,
    headline: bool = False,
    replies: str | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The frame of a leaderboard, and its samples; `headline` as for `compare`. Takes and raises what that does.

    `replies`: pass@k or mean@k, which then stands in place of accuracy.
    """
    if not 0 < margin < 100:
        raise TablesError(f"margin must lie between 0 and 100 points, got {margin:g}")
    cells, samples = load(results, models, benchmarks)
    if protocol is not None:
        cells = _under(cells, protocol)
    if against not in {"full", "base", *cells.method}:
        raise TablesError(f"against must be full, base or one of {', '.join(sorted(set(cells.method)))}; got {against}")
    if replies is not None:
        cells, samples = collapsed(cells, samples[samples.cell.isin(cells.cell)], replies)
    frame = compare(cells, samples, against=against, margin=margin / 100, headline=headline)
    frame["noise"] = [read_noise(runs_folder(results) / cell) for cell in frame.cell]
    return _ordered(_named(frame)), samples


def _under(cells: pd.DataFrame, protocol: str) -> pd.DataFrame:
    kept = cells[(cells.protocol == protocol) | (cells.protocol.str.partition("/")[0] == protocol)]
    if kept.empty:
        raise TablesError(f"no run under protocol {protocol}; there are: {', '.join(sorted(set(cells.protocol)))}")
    return kept.reset_index(drop=True)


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    """With a title for every setting and a label for every method; what tells namesakes apart is appended."""
    test = frame.benchmark.map(lambda name: " (self-test)" if name.startswith("glyph_") else "")
    frame["title"] = frame.model + " · " + frame.benchmark + test + " · " + frame.protocol + " · " + frame.decoding
    frame["label"] = frame.method + frame.addon.map(lambda name: "" if name == "none" else f"+{name}")
    for _, same in frame.groupby("title"):
        settings = same.setting.map(_dump)
        first = same[~settings.duplicated()]
        tags = varying(list(first.config))
        if len(set(tags)) < len(tags):  # another processor or data file under the same configuration
            tags = varying(list(first.setting))
        tag = dict(zip(settings[first.index], tags, strict=True))
        frame.loc[same.index, "title"] += [f" · {tag[x]}" if tag[x] else "" for x in settings]
    for _, same in frame.groupby(["title", "label", "keep", "tokens"], dropna=False):
        if len(same) > 1:
            frame.loc[same.index, "label"] += [f" {x}" if x else "" for x in varying(list(same.params))]
    for _, same in frame.groupby(["title", "label", "keep", "tokens"], dropna=False):
        if len(same) > 1:  # the folder's hash tells what the configuration does not
            frame.loc[same.index, "label"] += " #" + same.cell.str.rpartition("-")[2]
    return frame


def _ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """Sections by name; in them the full model first, then budgets from large to small, the most accurate first."""
    rank = frame.assign(rank=(frame.label != "none").astype(int))
    keys = ["title", "rank", "keep", "tokens", "accuracy", "label"]
    rank = rank.sort_values(keys, ascending=[True, True, False, False, False, True], na_position="last")
    return rank.drop(columns="rank").reset_index(drop=True)


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
