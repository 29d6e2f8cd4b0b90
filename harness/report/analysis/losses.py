"""What pruning loses in prefill and what while decoding, told apart; and what the moment of a recall is worth."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from harness.report.analysis.figures import COLOURS, panels
from harness.report.analysis.kind import Ask, Finding, Kind
from harness.report.analysis.methods import settings
from harness.report.analysis.stored import looked, samples
from harness.runs.errors import InputError
from harness.runs.log import iter_log
from harness.tables.stats.accuracy import wilson

AT = 1 / 3
FULL, DECODE, PREFILL, START, DSTP, RANDOM, PRUNED = CASES = (
    "full model",
    "decode pruned alone",
    "prefill pruned alone",
    "... and its first cell seen",
    "pruned, with DSTP",
    "pruned, random trigger",
    "pruned",
)
"""FastV at a third, with settings of DSTP that take one loss away.

* decode pruned alone: prefill is whole (recall=dense) and nothing triggers (tau=0, no similarity is lower), so every
  decode step reads what FastV kept, and nothing else is lost.
* prefill pruned alone: every step triggers (tau=2, every similarity is lower) and shows everything (swap=full). A
  recall takes effect with the next step, so the first decode step is pruned, too: replies in which that step saw the
  cell that it needs, the start of a walk, are counted apart.
"""
SETTINGS: dict[str, dict[str, Any]] = {
    DECODE: {"recall": "dense", "tau": 0}, PREFILL: {"swap": "full", "tau": 2}, DSTP: {}, RANDOM: {"trigger": "random"},
}  # fmt: skip
NAMES = {FULL: ("none", "none"), PRUNED: ("fastv", "none")}


def measure(ask: Ask) -> pd.DataFrame:
    """A row per model, task and case, over the samples that all cases have (START: over some of them).

    `accuracy` with its 95 % Wilson interval; means of `ret_decode`, `evidence` and `triggers` (per reply); `rate` of
    triggers per watched step. Of several random triggers that one whose rate is nearest to that of DSTP's own.

    Raises:
        InputError: no model has FastV at a third with these settings of DSTP.
    """
    rows = samples(ask).dropna(subset="credit")
    rows = rows[(rows.method == "none") | (rows.keep - AT).abs().lt(0.01)]
    started, found = _started(ask), list[dict[str, Any]]()
    for key, own in rows.groupby(["model", "task"]):
        model, task = map(str, key)
        cells = {case: part for case in CASES if case != START and (part := _cell(ask, own, case)) is not None}
        if set(cells) | {START, RANDOM} != set(CASES):
            continue
        shared = set.intersection(*(set(part.id) for part in cells.values()))
        if first := shared & started.get((model, task), set()):
            found.append({"model": model, "task": task, "case": START, **_row(ask, cells[PREFILL], first)})
        found += [{"model": model, "task": task, "case": case, **_row(ask, own, shared)} for case, own in cells.items()]
    if not found:
        raise InputError("losses needs fastv at keep=1/3, alone and with the settings of dstp in experiment=analysis")
    return pd.DataFrame(found)


def _cell(ask: Ask, own: pd.DataFrame, case: str) -> pd.DataFrame | None:
    """The samples of a case; of several cells, which differ in the rate of a random trigger, the nearest to DSTP's."""
    method, addon = NAMES.get(case, ("fastv", "dstp"))
    of_method = own[(own.method == method) & (own.addon == addon)]
    cells = [part for _, part in of_method.groupby("cell", observed=True) if _fits(part.params.iloc[0], case)]
    if len(cells) > 1 and (dstp := _cell(ask, own, DSTP)) is not None:
        wanted = _rate(ask, dstp)
        cells.sort(key=lambda part: abs(_rate(ask, part) - wanted))
    return cells[0] if cells else None


def _fits(params: dict[str, Any], case: str) -> bool:
    changed = settings(params) if case in SETTINGS else {}
    return {key: value for key, value in changed.items() if key != "rate"} == SETTINGS.get(case, {})


def _started(ask: Ask) -> dict[tuple[str, str], set[str]]:
    """By model and task, the replies of PREFILL whose first decode step could read the cell that is needed first."""
    found: dict[tuple[str, str], set[str]] = {}
    try:
        for reply in looked(ask, method="fastv", addon="dstp"):
            needed, shown = reply.record["needed"], [columns for step, columns in reply.record["shown"] if step <= 1]
            if _fits(reply.sample["params"], PREFILL) and needed and set(needed[0]) <= set(shown[-1]):
                found.setdefault((reply.sample["model"], reply.sample["task"]), set()).add(reply.sample["id"])
    except InputError:  # attention was not recorded
        pass
    return found


def _row(ask: Ask, own: pd.DataFrame, shared: set[str]) -> dict[str, Any]:
    part, params = own[own.id.isin(shared)], own.params.iloc[0]
    accuracy = wilson(part.credit.mean(), len(part))
    row = {"n": len(part), "accuracy": accuracy.value, "low": accuracy.low, "high": accuracy.high}
    row |= {name: part[name].mean() for name in ("ret_decode", "evidence", "triggers")}
    return row | ({"rate": _rate(ask, part)} if "L" in params else {})


def _rate(ask: Ask, own: pd.DataFrame) -> float:
    """Triggers per watched step of the samples of one cell of DSTP."""
    log, ids = iter_log(ask.results / "runs" / str(own.cell.iloc[0]), "samples"), set(own.id)
    lines = [line for (sample, _), line in log if sample in ids and not line.get("error")]
    steps = sum(watched(line["triggers"], len(line["token_ids"]) - 1, own.params.iloc[0]["L"]) for line in lines)
    return sum(len(line["triggers"]) for line in lines) / steps if steps else np.nan


def watched(triggers: list[int], steps: int, length: int) -> int:
    """Decode steps, from 1, at which DSTP looks whether to trigger: those outside the `length` steps of a spell."""
    return steps - sum(min(length, steps - step) for step in triggers)


def draw(frame: pd.DataFrame) -> Figure:
    """A panel per model and task, a bar per case."""
    groups = list(frame.groupby(["model", "task"]))
    figure, axes = panels(1, len(groups), 2.9, 2.9)
    for panel, ((model, task), own) in zip(axes, groups, strict=True):
        own = own.set_index("case").reindex([case for case in CASES if case in set(own.case)])
        error = 100 * (own.accuracy - own.low).clip(0), 100 * (own.high - own.accuracy).clip(0)
        colour = [COLOURS[CASES.index(str(case)) % len(COLOURS)] for case in own.index]
        panel.barh(range(len(own)), 100 * own.accuracy, xerr=error, color=colour, error_kw={"lw": 0.8})
        for y, row in enumerate(own.to_dict("records")):
            panel.text(100 * row["high"] + 2, y, f"n = {row['n']}", va="center", fontsize=6)
        panel.set_yticks(range(len(own)), list(own.index) if panel is axes[0] else [""] * len(own))
        panel.invert_yaxis()
        panel.set(title=f"{model}\n{task}", xlabel="accuracy, %", xlim=(0, 122))
    return figure


def findings(frame: pd.DataFrame) -> list[Finding]:
    """Which loss is the larger, and whether the attention is a better moment for a recall than chance."""
    found = []
    for (model, _), own in frame.groupby(["model", "task"]):
        rows = own.set_index("case", drop=False).to_dict("index")
        found.append(Finding(
            "DSTP sec. 1", "reasoning is lost while decoding, not in prefill", str(model),
            rows[DECODE]["high"] < rows[START if START in rows else PREFILL]["low"],
            _said(rows, FULL, DECODE, PREFILL, START, PRUNED),
        ))  # fmt: skip
        if RANDOM in rows:
            found.append(Finding(
                "DSTP table 3", "the trigger's moment is better than a random one at equal rate", str(model),
                rows[DSTP]["low"] > rows[RANDOM]["high"],
                _said(rows, DSTP, RANDOM) + "; triggers per watched step (per reply): "
                + ", ".join("{rate:.2f} ({triggers:.2f})".format_map(rows[case]) for case in (DSTP, RANDOM)),
            ))  # fmt: skip
    return found


def _said(rows: Mapping[Hashable, Mapping[Any, Any]], *cases: str) -> str:
    text = "{case} {accuracy:.1%} [{low:.1%}, {high:.1%}] (n = {n})"
    return "; ".join(text.format_map(rows[case]) for case in cases if case in rows)


LOSSES = Kind(
    "losses",
    "Accuracy with FastV at a third: the losses of prefill and of decode each taken away with settings of DSTP, and "
    "DSTP's trigger against a random one at equal rate (DSTP table 3), with 95 % intervals.",
    measure, draw, findings,
    notes="A case is better than another where their intervals do not meet. On the tiny models the trigger says "
    "nothing: attention has moved below the threshold at most watched steps, so that a random trigger of equal rate "
    "fires at nearly the same steps.",
)  # fmt: skip
