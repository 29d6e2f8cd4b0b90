"""What can be seen of the picture when it is needed: share of needed cells, by method and by step of a walk."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from harness.benchmarks.glyph_tasks import read_at
from harness.report.analysis.figures import panels
from harness.report.analysis.kind import Ask, Finding, Kind
from harness.report.analysis.methods import named, ordered, palette, settings
from harness.report.analysis.stored import Looked, looked
from harness.runs.errors import InputError
from harness.tables.stats.accuracy import wilson

AT = 1 / 3
KEYS = ["model", "task", "method", "cell"]


def visible_when_needed(reply: Looked) -> list[float]:
    """For each needed cell, the share of its visual tokens that the last layer reads when the reply reads the cell.

    "When" is that of the samples' `evidence` (`Glyphs.evidence`), which is the mean over layers instead, so that layers
    before a method acts count as seeing. Raises InputError as `read_steps` does.
    """
    return [
        sum(_share(cell, reply.record["shown"], step) for step in at) / len(at)
        for cell, at in zip(reply.record["needed"], read_steps(reply), strict=True)
    ]


def read_steps(reply: Looked) -> list[list[int]]:
    """For each needed cell, the steps at which the reply reads it (0: the prefill).

    Raises:
        InputError: the reply is not of the glyph world, or of a tokenizer that does not write a token per word.
    """
    task, text = str(reply.sample["task"]).split()[0], str(reply.sample["text"])
    if not task.startswith("glyph_"):
        raise InputError(f"evidence needs runs of the glyph world, where it is known what a reply needs, not {task}")
    last = len(reply.steps) - 1
    if last - _words(text) not in (-1, 0):  # without and with an end token
        raise InputError("evidence needs a tokenizer of one token a word, such as the tiny models'")
    places = read_at(text, len(reply.record["needed"]), walk=task == "glyph_walk")
    return [[min(_words(text[:place]), last) for place in at] for at in places]


def _words(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))


def readable(shown: list[tuple[int, list[int]]], step: int) -> set[int]:
    """The visual tokens that the last layer can read at a step, given `shown` of an attention record."""
    return next((set(columns) for start, columns in reversed(shown) if start <= step), set())


def _share(cell: list[int], shown: list[tuple[int, list[int]]], step: int) -> float:
    return len(readable(shown, step) & set(cell)) / len(cell) if cell else 0.0


def measure(ask: Ask) -> pd.DataFrame:
    """A row per model, task, method and needed cell: `cell` 0 is the start of a walk, `visible` the mean over n replies
    with its 95 % Wilson interval. Methods at a budget of a third and those without one, DSTP with the paper's settings.
    """
    rows: list[dict[str, Any]] = []
    for reply in looked(ask):
        row = reply.sample
        if _taken(row):
            key = {"model": row["model"], "task": row["task"], "method": row["method"], "addon": row["addon"]}
            rows += [{**key, "cell": k, "visible": share} for k, share in enumerate(visible_when_needed(reply))]
    frame = named(pd.DataFrame(rows))
    frame = frame[frame.groupby(["model", "task"]).method.transform("nunique") > 1]
    return pd.DataFrame([
        {**dict(zip(KEYS, key, strict=True)), "n": len(own), "visible": own.visible.mean(), "low": low, "high": high}
        for key, own in frame.groupby(KEYS)
        for low, high in [interval(own.visible)]
    ])  # fmt: skip


def interval(shares: pd.Series[float]) -> tuple[float, float]:
    """Wilson's of a mean of shares."""
    found = wilson(shares.mean(), len(shares))
    return found.low, found.high


def _taken(row: dict[str, Any]) -> bool:
    at = math.isnan(row["keep"]) or abs(row["keep"] - AT) < 0.01
    return at and (row["addon"] != "dstp" or not settings(row["params"]))


def draw(frame: pd.DataFrame) -> Figure:
    """A panel per model: along the walk; what look-ups see of their cell stands left of it."""
    models = sorted(frame.model.unique())
    figure, axes = panels(1, len(models), 3.5, 3.2)
    colour = palette(frame.method.unique())
    for panel, model in zip(axes, models, strict=True):
        own = frame[frame.model == model]
        for i, method in enumerate(ordered(own.method)):
            line = own[own.method == method]
            walk, glance = line[line.task.str.startswith("glyph_walk")], line[line.task.str.startswith("glyph_lookup")]
            for part, at in ((walk, walk.cell), (glance, glance.cell - 1.7)):
                error = 100 * (part.visible - part.low).clip(0), 100 * (part.high - part.visible).clip(0)
                panel.errorbar(
                    at + 0.06 * (i - 3), 100 * part.visible, error, fmt=f"{'os^Dv<>P'[i % 8]}-", ms=4, lw=1.4,
                    elinewidth=0.7, color=colour[method], label=method,
                )  # fmt: skip
        cells = sorted(own.cell.unique())
        panel.set_xticks([-1.7, *cells], ["look-\nup", "start", *map(str, cells[1:])])
        panel.axvline(-0.85, color="#999999", lw=0.8)
        panel.set(title=model, xlabel="needed cell (walk: after so many steps)", ylim=(-4, 106))
    axes[0].set_ylabel("visible when needed, %")
    lines = {label: line for line, label in zip(*axes[0].get_legend_handles_labels(), strict=True)}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=4)
    return figure


def findings(frame: pd.DataFrame) -> list[Finding]:
    """Whether methods that choose once see what later steps need, and whether DSTP brings it back in time."""
    found = []
    for name, own in frame[frame.task.str.startswith("glyph_walk")].groupby("model"):
        start, later = _shares(own[own.cell == 0]), _shares(own[own.cell > 0])
        once = [m for m in ordered(later) if m not in UNPRUNED and "+" not in m and not m.startswith("visionpulse")]
        found.append(Finding(
            "DSTP fig. 1", "what is chosen in prefill misses what later steps need", str(name),
            all(later[m] < 0.9 for m in once) if once else None,
            "start and later cells seen: " + "; ".join(f"{m} {start[m]:.0%} and {later[m]:.0%}" for m in once),
        ))  # fmt: skip
        if {"fastv", "fastv+dstp"} <= later.keys():
            found.append(Finding(
                "DSTP sec. 3", "DSTP brings later cells back when they are needed", str(name),
                later["fastv+dstp"] > later["fastv"],
                f"later cells seen: fastv {later['fastv']:.0%}, fastv+dstp {later['fastv+dstp']:.0%}",
            ))  # fmt: skip
    return found


def _shares(own: pd.DataFrame) -> dict[str, float]:
    """By method, over all its cells."""
    return {str(method): float(np.average(part.visible, weights=part.n)) for method, part in own.groupby("method")}


UNPRUNED = ("none", "oracle")

EVIDENCE = Kind(
    "evidence",
    "Share of needed cells that the last layer can read at the step that needs them, at a third of the visual tokens, "
    "with 95 % intervals. The glyph world alone knows what is needed when.",
    measure, draw, findings,
)  # fmt: skip
