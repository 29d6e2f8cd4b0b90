"""Figure and findings of fidelity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.stats import spearmanr

from harness.report.analysis.fidelity import measure
from harness.report.analysis.figures import colours, panels
from harness.report.analysis.kind import Finding, Kind

LEAST = 10
"""Tokens behind every point of a curve or rank correlation."""


def draw(frame: pd.DataFrame) -> Figure:
    """A column per model: divergence by budget, by the words of a walk or the step, and agreement against accuracy."""
    cell, models = frame[frame.part == "cell"], sorted(frame.model.unique())
    figure, axes = panels(3, len(models), width=3.6)
    colour = colours(sorted(cell.method.unique()))
    lines = dict(zip(sorted(cell.task.unique()), ("-", "--", ":", "-."), strict=False))
    for i, model in enumerate(models):
        by_keep, along, agreement = axes[i :: len(models)]
        for key, own in cell[cell.model == model].groupby(["task", "method"]):
            task, method = map(str, key)
            style: dict[str, Any] = {"color": colour[method], "ls": lines.get(task, "-"), "lw": 1.2}
            if own.keep.isna().all():
                by_keep.axhline(own.kl.iloc[0], **style)
            else:
                by_keep.errorbar(own.keep, own.kl, own.kl_error, marker="o", ms=3, **style)
            agreement.scatter(100 * own.agreement, 100 * own.accuracy, s=14, color=colour[method],
                              marker="o" if lines.get(task) == "-" else "^")  # fmt: skip
        by_keep.set(title=model, xlabel="kept visual tokens", ylabel="KL to full, nats a token", ylim=(0, None))
        _along(frame[frame.model == model], along, colour)
        agreement.set(xlabel="most probable token is the full model's, %", ylabel="free replies right, %")
        agreement.set(xlim=(None, 103), ylim=(-3, 103))
        if cell[cell.model == model].accuracy.isna().all():
            agreement.text(0.5, 0.5, "no stored runs of these cells", ha="center", transform=agreement.transAxes)
    handles = [Line2D([], [], color=c, label=method) for method, c in colour.items()]
    handles += [Line2D([], [], color="0.4", ls=ls, label=task) for task, ls in lines.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def _along(own: pd.DataFrame, axes: Axes, colour: dict[str, str]) -> None:
    """Divergence along the reply at the budget next to a third."""
    third = own[own.keep.isna() | (own.keep == _third(own))]
    read = third[(third.part == "word") & (third.word == "pips")]
    shown, x = (read, "leg") if len(read) else (third[third.part == "step"], "step")
    for method, curve in shown[shown.n >= LEAST].groupby("method"):
        axes.plot(curve[x] + 1, curve.kl, "o-", ms=3, lw=1.2, color=colour[str(method)])
    axes.set(ylabel="KL to full, nats", ylim=(0, None))
    axes.set(
        xlabel="cell of the walk (KL where its pips are read)" if len(read) else "token of the reply",
        title=f"keep {_third(own):.2f}",
    )


def _third(own: pd.DataFrame) -> float:
    return float(min(own.keep.dropna().unique(), key=lambda keep: abs(keep - 1 / 3)))


def findings(frame: pd.DataFrame) -> list[Finding]:
    """What loses most, where in the reply, what a recall wins back, and whether replies judge methods the same way."""
    return [f for name, own in frame.groupby("model") for f in _of_model_found(str(name), own)]


def _of_model_found(model: str, own: pd.DataFrame) -> Iterator[Finding]:
    cell, third = own[own.part == "cell"], _third(own)
    for task, part in cell.groupby("task"):
        kl = part.pivot_table(index="keep", columns="method", values="kl")
        order = pd.Series(kl.loc[third]).sort_values(ascending=False)
        yield Finding(
            "-", f"{task}: at equal budget random choice loses most", model,
            bool((kl["random"] >= kl.max(axis=1)).all()) if "random" in kl else None,
            f"KL in nats a token at keep {third:.2f}: " + ", ".join(f"{name} {x:.2f}" for name, x in order.items()),
        )  # fmt: skip
        steps = own[(own.part == "step") & (own.task == task)].step.max()
        if {"fastv", "fastv+dstp"} <= set(kl) and steps > 1:  # what comes back is seen from the next token on
            yield Finding(
                "DSTP", f"{task}: tokens that come back bring the reply nearer to the full model's", model,
                bool((kl["fastv+dstp"] < kl["fastv"]).all()),
                ", ".join(f"keep {k:.2f}: {r['fastv']:.2f} -> {r['fastv+dstp']:.2f} nats" for k, r in kl.iterrows()),
            )  # fmt: skip
        for _, row in part[part.method.str.startswith("visionpulse")].iterrows():
            yield Finding(
                "VisionPulse", f"{task}: a tenth of the visual keys a step keeps more than 97 % of the choices", model,
                bool(row.agreement > 0.97), f"top-1 agreement {row.agreement:.1%}, KL {row.kl:.2g} nats a token",
            )  # fmt: skip
    yield from _growth(model, own, third)
    if len(read := own[(own.part == "word") & (own.keep == third)]):
        mean = (read.kl * read.n).groupby(read.word).sum() / read.n.groupby(read.word).sum()
        eyes, hands = mean[["pips", "arrow"]].min(), mean.drop(["pips", "arrow"]).max()
        yield Finding(
            "-", "only the words of a walk that are read off the picture suffer", model, bool(eyes > hands),
            f"KL in nats at keep {third:.2f}, mean of all methods: "
            + ", ".join(f"{word} {x:.2g}" for word, x in mean.sort_values(ascending=False).items()),
        )  # fmt: skip
    for task, known in cell.dropna(subset="accuracy").groupby("task"):
        rho = spearmanr(known.agreement, known.accuracy) if len(known) > 2 else None
        yield Finding(
            "-", f"{task}: agreement with the full model ranks methods as the accuracy of free replies does", model,
            bool(rho.statistic > 0 and rho.pvalue < 0.05) if rho else None,
            f"Spearman's rho {rho.statistic:.2f} over {len(known)} cells" if rho else "too few stored runs",
        )  # fmt: skip


def _growth(model: str, own: pd.DataFrame, third: float) -> Iterator[Finding]:
    """Whether the divergence grows along the reply, of walks by their cells, of others by tokens."""
    for task, part in own[own.keep == third].groupby("task"):
        read = part[(part.part == "word") & (part.word == "pips")]
        shown, x = (read, "leg") if len(read) else (part[part.part == "step"], "step")
        shown = shown[shown.n >= LEAST]
        if shown[x].nunique() < 3:
            yield Finding("-", f"{task}: the loss grows along the reply", model, None, "replies have fewer steps")
            continue
        rho = {str(method): spearmanr(c[x], c.kl).statistic for method, c in shown.groupby("method")}
        ends = shown.groupby("method").kl.agg(["first", "last"])
        yield Finding(
            "-", f"{task}: the loss grows along the reply", model, bool(np.median(list(rho.values())) > 0.5),
            f"KL in nats at keep {third:.2f}, first and last {'cell' if x == 'leg' else 'token'} (rho with place): "
            + ", ".join(f"{m} {a:.2f}, {z:.2f} ({rho[str(m)]:.2f})" for m, (a, z) in ends.iterrows()),
        )  # fmt: skip


FIDELITY = Kind(
    "fidelity",
    "Divergence of next-token probabilities from the full model's along the full model's own replies (teacher-forced): "
    "by budget, along the reply at a third of the tokens (of walks where the pips are read), and top-1 agreement "
    "against the accuracy of free replies.",
    measure, draw, findings,
    "Along a reply that is forced, mistakes cannot add up: every cell of a walk is read off the picture anew, and "
    "words that are copied or computed from earlier words hardly suffer. So the loss of a walk is there from its first "
    "cells on; that longer free replies fail more often needs no growing loss, as one wrong word is enough.",
)  # fmt: skip
