"""What recall and dynamic choice buy over a larger static choice (DSTP, arXiv 2604.12358, figure 9)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from harness.report.analysis.evidence import read_steps, readable
from harness.report.analysis.family_gap import GLANCES
from harness.report.analysis.figures import panels
from harness.report.analysis.kind import Ask, Finding, Kind
from harness.report.analysis.methods import settings
from harness.report.analysis.stored import Looked, looked, samples
from harness.runs.errors import InputError
from harness.tables.stats.accuracy import wilson

FULL, STATIC, BASE, DSTP, PULSE = CASES = ("none", "fastv 2/3", "fastv 1/3", "fastv+dstp 1/3", "visionpulse_10")
"""DSTP's union of two choices of k tokens has at most 2k, as many as the static choice keeps."""
DRAWN, COLUMNS = (STATIC, DSTP), 6
PART = 1 / 3
"""What counts as a good part of the lost replies."""
BOX = ["top", "left", "bottom", "right"]


def measure(ask: Ask) -> pd.DataFrame:
    """Rows of two kinds, told apart by `part`.

    "score": per model, task and case n, accuracy with its 95 % Wilson interval, and means of `evidence` (NaN where it
    is not known what is needed), `ret_prefill` and `ret_decode`. "map": of one reply of reasoning per model, case of
    DRAWN and step a row per visual token: its box, whether the last layer could read it and whether the step needed it.
    """
    rows = samples(ask).dropna(subset="credit")
    cells = rows.drop_duplicates("cell").set_index("cell")[["method", "addon", "keep", "params"]]
    rows["case"] = rows.cell.map({cell: _case(row) for cell, row in cells.to_dict("index").items()})
    scores = []
    for (model, task), own in rows.groupby(["model", "task"]):
        if {BASE, DSTP} <= set(own.case):
            key = {"part": "score", "model": model, "task": task}
            scores += [{**key, "case": case, **_score(part)} for case, part in own.groupby("case")]
    if not scores:
        raise InputError("selection needs fastv at keep=1/3 alone and with dstp")
    return pd.DataFrame([*scores, *_maps(ask, rows)])


def _case(row: Mapping[Any, Any]) -> str | None:
    """Which of CASES a cell is, if any."""
    if row["addon"] == "dstp" and settings(row["params"]):
        return None
    name = row["method"] if row["addon"] == "none" else f"{row['method']}+{row['addon']}"
    for case in CASES:
        method, _, keep = case.partition(" ")
        if name == method and (not keep or abs(row["keep"] - Fraction(keep)) < 0.01):
            return case
    return None


def _score(own: pd.DataFrame) -> dict[str, Any]:
    accuracy = wilson(own.credit.mean(), len(own))
    means = {name: own[name].mean() for name in ("evidence", "ret_prefill", "ret_decode")}
    return {"n": len(own), "accuracy": accuracy.value, "low": accuracy.low, "high": accuracy.high, **means}


def _maps(ask: Ask, rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Of each model the first of the questions with the longest replies, DSTP's, among those of all DRAWN cases."""
    rows = rows[~rows.task.str.split().str[0].isin(GLANCES) & rows.case.isin(DRAWN)]
    shared = rows[rows.groupby(["model", "task", "id"]).case.transform("nunique") == len(DRAWN)]
    drawn = shared.sort_values(["category", "id"], ascending=[False, True]).groupby("model").first()
    found = []
    for reply in looked(ask, method="fastv") if len(drawn) else ():
        row, case = reply.sample, _case(reply.sample)
        wanted = row["model"] in drawn.index and (row["task"], row["id"]) == tuple(
            drawn.loc[row["model"], ["task", "id"]]
        )
        if wanted and case in DRAWN:
            key = {"part": "map", "model": row["model"], "task": row["task"], "case": case, "id": row["id"]}
            found += [{**key, **token} for token in _tokens(reply)]
    return found


def _tokens(reply: Looked) -> list[dict[str, Any]]:
    """A row per drawn step and visual token of a reply."""
    try:
        steps = [(at[0], set(cell)) for at, cell in zip(read_steps(reply), reply.record["needed"], strict=True)]
    except InputError:  # it is not known what is needed when
        steps = [(step, set[int]()) for step in range(len(reply.steps))]
    chosen = np.unique(np.linspace(0, len(steps) - 1, COLUMNS).round().astype(int))
    return [
        {
            "column": i,
            "step": step,
            "visible": token in seen,
            "needed": token in needed,
            **dict(zip(BOX, box, strict=True)),
        }
        for i in chosen
        for step, needed in [steps[i]]
        for seen in [readable(reply.record["shown"], step)]
        for token, (_, *box) in enumerate(box or [None] * 5 for box in reply.record["boxes"])
        if None not in box
    ]


def draw(frame: pd.DataFrame) -> Figure:
    """Two rows per model, of the larger static choice and of DSTP: its scores, then what is visible along one reply."""
    score, tokens = frame[frame.part == "score"], frame[frame.part == "map"]
    score = score[~score.task.str.split().str[0].isin(GLANCES)].drop_duplicates(["model", "case"])
    lines = score[score.case.isin(DRAWN)].sort_values(["model", "case"], ascending=[True, False])
    figure, axes = panels(len(lines), COLUMNS + 1, 1.25, 1.3)
    for i, at in enumerate(lines.to_dict("records")):
        first, *rest = axes[i * (COLUMNS + 1) : (i + 1) * (COLUMNS + 1)]
        for panel in (first, *rest):
            panel.set_axis_off()
        evidence = "" if np.isnan(at["evidence"]) else "evidence {evidence:.2f}\n"
        text = "{model}\n{case}\nright {accuracy:.0%}\n" + evidence + "read {ret_decode:.2f}"
        first.text(0, 0.5, text.format_map(at), va="center", fontsize=8)
        own = tokens[(tokens.model == at["model"]) & (tokens.case == at["case"])]
        for panel, (_, step) in zip(rest, own.groupby("column"), strict=False):
            _draw_step(panel, step)
    return figure


def _draw_step(panel: Axes, tokens: pd.DataFrame) -> None:
    """Visible tokens of one step dark, needed ones outlined: whole if they are seen, dashed if not."""
    needed = tokens[tokens.needed.astype(bool)]
    for row in tokens.to_dict("records"):
        place, size = (row["left"], row["top"]), (row["right"] - row["left"], row["bottom"] - row["top"])
        panel.add_patch(Rectangle(place, *size, fc="#56B4E9" if row["visible"] else "#EEEEEE", ec="white", lw=0.3))
    for row in needed.to_dict("records"):
        place, size = (row["left"], row["top"]), (row["right"] - row["left"], row["bottom"] - row["top"])
        style = "-" if row["visible"] else ":"
        panel.add_patch(Rectangle(place, *size, fill=False, ec="#D55E00", lw=1.8, ls=style, zorder=3))
    seen = "" if needed.empty else ": seen" if needed.visible.astype(bool).all() else ": missed"
    panel.set_title(f"step {tokens.step.iloc[0]:.0f}{seen}", fontsize=7)
    panel.set(xlim=(-0.02, 1.02), ylim=(1.02, -0.02), aspect="equal")


def findings(frame: pd.DataFrame) -> list[Finding]:
    """What DSTP wins back, alone and against the larger static choice, and what VisionPulse keeps."""
    found = []
    for (name, task), own in frame[frame.part == "score"].groupby(["model", "task"]):
        at, model = own.set_index("case").accuracy, str(name)
        rows = own.set_index("case", drop=False).to_dict("index")
        numbers = "; ".join(map(_said, rows.values()))
        if PULSE in at and FULL in at:
            found.append(Finding(
                "VisionPulse", f"at <= 10 % of the keys a step it keeps more than 97 % ({task})", model,
                bool(at[PULSE] > 0.97 * at[FULL]), f"{at[PULSE]:.1%} of {at[FULL]:.1%}",
            ))  # fmt: skip
        if str(task).split()[0] in GLANCES:
            continue
        if at.get(FULL, 0) > at[BASE]:
            back = (at[DSTP] - at[BASE]) / (at[FULL] - at[BASE])
            found.append(Finding(
                "DSTP table 1", f"DSTP wins back a good part, {PART:.0%} and more, of what FastV loses ({task})", model,
                bool(back >= PART), f"{back:.0%} of the loss; {numbers}",
            ))  # fmt: skip
        if STATIC in at:
            found.append(Finding(
                "DSTP fig. 9", f"DSTP at 1/3 is better than twice the tokens chosen once ({task})", model,
                bool(rows[DSTP]["low"] > rows[STATIC]["high"]), f"{_said(rows[DSTP])}; {_said(rows[STATIC])}",
            ))  # fmt: skip
    return found


def _said(row: Mapping[Hashable, Any]) -> str:
    return "{case} {accuracy:.1%} [{low:.1%}, {high:.1%}]".format_map(row)


SELECTION = Kind(
    "selection",
    "What the last layer can read (blue) along one walk per model when its cells are needed (outlined; dotted: "
    "missed), with a static choice of two thirds and with DSTP on a third (DSTP figure 9). At the left means over all "
    "walks: right replies, evidence recall and the share of visual tokens read while decoding.",
    measure, draw, findings,
    notes="Why DSTP wins back little on the tiny models: a step that triggers is not run again, so what it needed is "
    "missed. With everything shown from the second step on, walks whose start is seen in the first are right as with "
    "the full model (kind losses). VisionPulse chooses at every step from a full cache, behind layers that read all.",
)  # fmt: skip
