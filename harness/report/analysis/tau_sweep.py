"""DSTP's two parameters, threshold and length of a spell, against accuracy and cost (arXiv 2604.12358, figure 10)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from harness.report.analysis.figures import COLOURS, panels
from harness.report.analysis.kind import Ask, Finding, Kind
from harness.report.analysis.methods import settings
from harness.report.analysis.stored import chosen, samples
from harness.tables.stats.accuracy import wilson

PAPER = (0.75, 20)
"""tau and L as the paper tuned them."""
KEYS = ["model", "task", "method", "keep", "tau", "L"]


def measure(ask: Ask) -> pd.DataFrame:
    """A row per model, task, base at a budget, tau and L; other settings of DSTP as in the paper.

    `accuracy` with its 95 % Wilson interval; `ret_decode`, `triggers` (per reply) and `evidence` are means. Bases and
    tasks that ran with fewer than two values of either are left out; all rows of a base have the same samples.
    """
    rows = chosen(samples(ask), addon="dstp").dropna(subset="credit")
    rows = rows[[set(settings(params)) <= {"tau", "L"} for params in rows.params]]
    rows = rows.assign(tau=[p["tau"] for p in rows.params], L=[p["L"] for p in rows.params])
    found = []
    for _, own in rows.groupby(KEYS[:4], observed=True):
        if min(own.tau.nunique(), own.L.nunique()) > 1:
            seen = own.groupby(["id", "repeat"]).cell.nunique()
            shared = own.set_index(["id", "repeat"]).loc[seen.index[seen == own.cell.nunique()]]
            found += [_row(key, part) for key, part in shared.groupby(KEYS, observed=True)]
    return pd.DataFrame(found)


def _row(key: tuple[object, ...], own: pd.DataFrame) -> dict[str, object]:
    accuracy = wilson(own.credit.mean(), len(own))
    means = {name: own[name].mean() for name in ("ret_decode", "triggers", "evidence")}
    found = {"n": len(own), "accuracy": accuracy.value, "low": accuracy.low, "high": accuracy.high, **means}
    return {**dict(zip(KEYS, key, strict=True)), **found}


def draw(frame: pd.DataFrame) -> Figure:
    """Per model: accuracy against tau, and against the share of the picture that is read, a line per L."""
    models = sorted(frame.model.unique())
    figure, axes = panels(2, len(models), 3.1, 2.4)
    for i, model in enumerate(models):
        above, below = axes[i], axes[len(models) + i]
        for k, (length, own) in enumerate(frame[frame.model == model].groupby("L")):
            own, label, colour = own.sort_values("tau"), f"L = {length}", COLOURS[k % len(COLOURS)]
            error = 100 * (own.accuracy - own.low), 100 * (own.high - own.accuracy)
            above.errorbar(
                own.tau + 0.012 * k,
                100 * own.accuracy,
                error,
                fmt="o-",
                ms=4,
                elinewidth=0.7,
                color=colour,
                label=label,
            )
            below.plot(own.ret_decode, 100 * own.accuracy, "o-", ms=4, color=colour, label=label)
        above.axvline(PAPER[0], color="#999999", lw=0.8, ls="--")
        above.set(title=model, xlabel="threshold tau (dashed: the paper's)")
        below.set(xlabel="visual tokens read per step, share")
    for panel in (axes[0], axes[len(models)]):
        panel.set_ylabel("accuracy, %")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def findings(frame: pd.DataFrame) -> list[Finding]:
    """Whether the paper's optimum is one here; None if another is better, but within the interval of the paper's."""
    found = []
    for model, own in frame.groupby("model"):
        best = own.sort_values("accuracy").iloc[-1]
        paper = own[np.isclose(own[["tau", "L"]], PAPER).all(axis=1)]
        numbers = f"best tau {best.tau:g}, L {best.L:g}: {best.accuracy:.1%} [{best.low:.1%}, {best.high:.1%}]"
        if len(paper):
            at = paper.iloc[0]
            numbers += f"; tau {at.tau:g}, L {at.L:g}: {at.accuracy:.1%} [{at.low:.1%}, {at.high:.1%}], n = {at.n}"
        found.append(Finding(
            "DSTP fig. 10", "no setting is better than tau 0.75 and L 20", str(model),
            _optimum(paper.iloc[0], best.accuracy) if len(paper) else None, numbers,
        ))  # fmt: skip
    return found


def _optimum(paper: pd.Series[float], best: float) -> bool | None:
    if paper.accuracy == best:
        return True
    return None if paper.high > best else False


TAU_SWEEP = Kind(
    "tau_sweep",
    "DSTP's threshold tau and length of a spell L on top of FastV at a third, on walks: accuracy with 95 % intervals, "
    "and the share of visual tokens read while decoding (DSTP figure 10).",
    measure, draw, findings,
)  # fmt: skip
