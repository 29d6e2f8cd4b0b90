"""Figures for papers: accuracy against what it costs, a line per method, from a leaderboard's frame."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import cycle
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.report.analysis.figures import COLOURS, panels
from harness.tables.caption import DIAGNOSTIC
from harness.tables.columns import prefix
from harness.tables.frames import TablesError
from harness.tables.pareto import CEILINGS, COSTS, machines, pareto, total_flops

DEFAULT = ("ret_prefill", "flops", "seconds")
"""Axes of a figure that asks for none."""
MARKERS = "os^DvPX<>*hp"
"""Told apart where colours are not."""
FLOOR, CEILING = "#777777", "#AAAAAA"
"""Greys of diagnostic methods."""
ENDINGS: dict[str, dict[str, Any]] = {
    ".pdf": {"CreationDate": None},
    ".png": {"Software": None},
    ".svg": {"Date": None},
}
"""Kinds of files, with what has to be left out so that equal figures are equal files."""
LINE = 0.18
"""Inches that a line of the legend takes."""


@dataclass(frozen=True)
class Axis:
    """What accuracy is drawn against: the label of the axis (`{unit}` is an SI prefix), and the values."""

    label: str
    values: Callable[[pd.DataFrame], pd.Series]


AXES = {
    "ret_nominal": Axis("visual tokens asked for (share)", lambda frame: frame.ret_nominal),
    "ret_prefill": Axis("visual tokens in prefill (share)", lambda frame: frame.ret_prefill),
    "ret_decode": Axis("visual tokens read while decoding (share)", lambda frame: frame.ret_decode),
    "kv": Axis("visual KV that stays (share)", lambda frame: frame.kv),
    "flops": Axis("{unit}FLOPs per sample", total_flops),
    "seconds": Axis("seconds per sample", lambda frame: frame.seconds),
}


def draw(frame: pd.DataFrame, x: Sequence[str], results: Path) -> Figure:
    """A row of panels per section of a leaderboard, a panel per axis.

    Args:
        frame: of `harness.tables.leaderboard.Leaderboard`; cells without an accuracy are left out.
        x: names of AXES.
        results: the results folder, which says on what machines times were taken.

    Raises:
        TablesError: an unknown axis, or no cell that has an accuracy.
    """
    if unknown := [name for name in x if name not in AXES]:
        raise TablesError(f"unknown axis {unknown[0]}; known: {', '.join(AXES)}")
    frame = frame[frame.accuracy.notna()]
    if frame.empty:
        raise TablesError("no cell has an accuracy yet")
    titles = list(dict.fromkeys(frame.title))
    figure, axes = panels(len(titles), len(x), 3.3, 2.7)
    looks = _looks(frame)
    for i, panel in enumerate(axes):
        own, name = frame[frame.title == titles[i // len(x)]], x[i % len(x)]
        _panel(panel, own, name, looks, _fair(own, name, results))
        panel.set_ylabel("accuracy, %" if i % len(x) == 0 else "")
        panel.set_title(_title(titles[i // len(x)]) if i % len(x) == 0 else "", loc="left")
    lines = {label: line for panel in axes for line, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    wide = min(5, 2 * len(x))
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=wide)
    figure.set_figheight(figure.get_figheight() + LINE * math.ceil(len(lines) / wide))
    return figure


def of_methods(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The cells of these methods (names or globs; with all their add-ons), and the full model.

    Raises:
        TablesError: one of them is not there.
    """
    keep = frame.label == "none"
    for name in names:
        found = frame.method.map(lambda method, name=name: fnmatchcase(method, name))
        if not found.any():
            raise TablesError(f"no run of {name}; there are: {', '.join(sorted(set(frame.method)))}")
        keep |= found
    return frame[keep]


def save(figure: Figure, path: Path) -> None:
    """Write one file by its ending. Raises OSError."""
    figure.savefig(path, metadata=ENDINGS[path.suffix])


def _title(section: str) -> str:
    """Model and benchmark in one line, how they were run in another."""
    model, benchmark, *how = section.split(" · ")
    return f"{model} · {benchmark}\n{' · '.join(how)}"


def _looks(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Colour and marker of every method, the same in all panels; methods that are none to use are grey."""
    methods = dict(zip(frame.label, frame.method, strict=True))
    names = [name for name in methods if name != "none"]
    plain = {name for name in names if methods[name] in DIAGNOSTIC and "+" not in name}
    colour = dict(zip([name for name in names if name not in plain], cycle(COLOURS[:-1]), strict=False))
    colour |= {name: CEILING if methods[name] in CEILINGS else FLOOR for name in plain}
    return {
        name: {"color": colour[name], "marker": MARKERS[i % len(MARKERS)],
               "ls": ":" if name in plain else "-"}
        for i, name in enumerate(names)
    }  # fmt: skip


def _fair(own: pd.DataFrame, name: str, results: Path) -> bool:
    """Whether a front can be drawn: of costs alone, and of times only if they were all taken on one machine."""
    return name in COSTS and (name != "seconds" or len(set().union(*machines(results, own.cell).values())) <= 1)


def _panel(panel: Axes, own: pd.DataFrame, name: str, looks: dict[str, dict[str, Any]], front: bool) -> None:
    values = AXES[name].values(own)
    letter, unit = prefix(float(values.max())) if name == "flops" else ("", 1.0)
    own = own.assign(x=values / unit)
    panel.set_xlabel(AXES[name].label.format(unit=letter))
    if front:
        best = own[pareto(own, name)].sort_values(["x", "accuracy"])
        panel.step(
            best.x, 100 * best.accuracy, "o-", where="post", color="#F6EE9A", lw=5, ms=11, zorder=0, label="front"
        )
    for row in own[own.label == "none"].to_dict("records"):
        panel.axhline(100 * row["accuracy"], color="black", lw=0.8, ls="--", zorder=1)
        panel.axhspan(100 * row["accuracy_low"], 100 * row["accuracy_high"], color="black", alpha=0.06, lw=0, zorder=0)
        panel.plot(row["x"], 100 * row["accuracy"], "k*", ms=9, ls="--", lw=0.8, label="full model")
    for label, look in looks.items():
        line = own[own.label == label].sort_values(["keep", "tokens"])
        if len(line):
            down, up = line.accuracy - line.accuracy_low, line.accuracy_high - line.accuracy
            panel.errorbar(
                line.x, 100 * line.accuracy, (100 * down.clip(lower=0), 100 * up.clip(lower=0)), label=label, ms=5,
                lw=1.4, elinewidth=0.7, capsize=1.5, markeredgecolor="white", markeredgewidth=0.5, **look,
            )  # fmt: skip
    panel.set_ylim(-3, 103)
    if name not in COSTS:
        panel.set_xlim(-0.04, 1.06)
