"""Where each cell stands in a pivot table, and which cells may not stand side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from harness.runs.typed import flatten
from harness.tables.columns import budget
from harness.tables.frames import TablesError, varying
from harness.tables.pivot_text import Asked, metric_of

AXES = ("model", "benchmark", "protocol", "decoding", "method", "addon", "keep")


def placed(frame: pd.DataFrame, rows: str, cols: str) -> pd.DataFrame:
    """With the section, row and column of every cell."""
    shown = {rows, cols}
    texts = frame[["model", "benchmark", "protocol", "decoding", "addon"]].copy()
    texts["keep"] = [_keep(row) for row in frame.to_dict("records")]
    texts["method"] = _labels(frame, alone="addon" in shown)
    beside = texts.keep if "keep" not in shown else ""  # the budget of a method that is an axis
    others = [axis for axis in AXES if axis not in {*shown, "protocol", "addon"}]
    if "method" in shown and "keep" in others:
        others.remove("keep")
    section = texts[others].agg(" · ".join, axis=1) if others else pd.Series("", index=frame.index)
    test = frame.benchmark.str.startswith("glyph_").groupby(section).transform("all")
    return frame.assign(
        section=section + test.map({True: " (self-test)", False: ""}),
        row=texts[rows],
        row_budget=beside if rows == "method" else "",
        column=texts[cols],
        column_budget=beside if cols == "method" else "",
    )


def _keep(row: Mapping[Any, Any]) -> str:
    return "full" if row["method"] == "none" else budget(dict(row))


def _labels(frame: pd.DataFrame, alone: bool) -> pd.Series:
    """Names of methods, with their add-on unless that stands alone; what tells namesakes apart is appended."""
    label = frame.method + ("" if alone else frame.addon.map(lambda name: "" if name == "none" else f"+{name}"))
    same = [frame.model, frame.addon, frame.keep, frame.tokens]
    params = frame.params.map(_without_budget)
    for _, part in label.groupby([label, *same], dropna=False):
        label[part.index] += [f" {tag}" if tag else "" for tag in varying(list(params[part.index]))]
    where = [*same, frame.benchmark, frame.protocol, frame.decoding, frame.setting.map(repr)]
    twins = label.groupby([label, *where], dropna=False).transform("size") > 1
    label[twins] += " #" + frame.cell[twins].str.split("-").str[-1]  # the folder's hash
    return label


def _without_budget(params: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flatten(params) if key.rpartition(".")[2] not in {"keep", "tokens"}}


def refuse(frame: pd.DataFrame, asked: Asked) -> None:
    """Raise TablesError for cells that may not stand side by side; those with nothing finished do no harm."""
    done = frame[frame.n > 0]
    axes = {asked.rows, asked.cols}
    for (_, benchmark), part in done.groupby(["section", "benchmark"]):
        names = sorted(set(part.protocol))
        if len(names) > 1 and "protocol" not in axes:
            choices = " or ".join(f"protocol={name}" for name in names)
            raise TablesError(f"{_where(benchmark, asked)} would pool protocols {' and '.join(names)}: add {choices}")
    for (_, benchmark, *_), part in done.groupby(["model", "benchmark", "protocol", "decoding"]):
        kinds = part.setting.map(repr)
        if kinds.nunique() > 1:
            first = part[~kinds.duplicated()]
            tags = varying(list(first.config))
            if len(set(tags)) < len(tags):  # another processor or data file under the same configuration
                tags = varying(list(first.setting))
            raise TablesError(f"{_where(benchmark, asked)} would pool {' and '.join(tags)}: keep the runs of one")
    apart = [asked.cols] if asked.cols in {"model", "protocol", "decoding"} else []
    for (_, benchmark, *_), part in done.groupby(["section", "benchmark", *apart]):
        if part.n.nunique() > 1:
            sizes = [f"N {n} ({_names(same)})" for n, same in reversed(list(part.groupby("n")))]
            raise TablesError(
                f"{_where(benchmark, asked)} would pool {' and '.join(sizes)}: "
                "run the rest, or choose others (benchmark=, model=)"
            )
    waiting = done[done.unjudged > 0]
    if len(waiting) and metric_of(asked.metric).judged:
        row = waiting.iloc[0]
        raise TablesError(
            f"{_where(row.benchmark, asked)}: {row.unjudged} samples of {row.cell} wait for a judge "
            "(vtpbench score RUN judge=...), so it has no accuracy yet"
        )


def _where(benchmark: object, asked: Asked) -> str:
    return f"{ {asked.cols: 'column', asked.rows: 'row'}.get('benchmark', 'benchmark') } {benchmark}"


def _names(cells: pd.DataFrame) -> str:
    names = list(dict.fromkeys(cells.label + " " + [_keep(row) for row in cells.to_dict("records")]))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
