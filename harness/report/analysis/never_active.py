"""Visual tokens that no step of a reply attends to (VisionPulse, arXiv 2605.31457, figure 8)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import spearmanr

from harness.engine.watch import DELTAS
from harness.report.analysis.figures import colours, panels
from harness.report.analysis.kind import Ask, Finding, Kind
from harness.report.analysis.mass import anchor
from harness.report.analysis.stored import looked

SHARES = [f"never_{delta}" for delta in DELTAS]
LOW, MIDDLE, HIGH = SHARES[0], SHARES[1], SHARES[-1]


def measure(ask: Ask) -> pd.DataFrame:
    """A row per model, task, sample and layer.

    `never_D`: share of the visual tokens whose attention (mean over heads) exceeds D at no step, that of the last
    prompt token included. `watched` marks the layer that figure and findings read, VisionPulse's anchor.
    """
    rows = []
    for reply in looked(ask, method="none"):
        tokens, ever = reply.record["visual_tokens"], reply.record["ever"]
        for layer, active in enumerate(ever):
            rows.append({
                **{key: reply.sample[key] for key in ("model", "task", "id", "category")},
                "trace_length": len(reply.steps), "layer": layer, "watched": layer == anchor(ask, len(ever)),
                "visual_tokens": tokens,
                **{share: 1 - n / tokens for share, n in zip(SHARES, active, strict=True)},
            })  # fmt: skip
    return pd.DataFrame(rows)


def draw(frame: pd.DataFrame) -> Figure:
    """By length of the reply, by task and by layer; the bands reach from the lowest to the highest threshold."""
    figure, (by_length, by_task, by_layer) = panels(1, 3)
    watched = frame[frame.watched]
    colour, tasks = colours(sorted(watched.model.unique())), sorted(watched.task.unique())
    wide = 0.75 / len(colour)
    for i, (name, own) in enumerate(watched.groupby("model")):
        look: dict[str, Any] = {"color": colour[str(name)], "label": name}
        grouped = own.groupby(_grouped(own.trace_length), observed=True)
        _lines(by_length, grouped.trace_length.mean(), grouped[SHARES].mean(), look)
        means = frame[frame.model == name].groupby("layer")[SHARES].mean()
        _lines(by_layer, means.index, means, look)
        means = 100 * own.groupby("task")[SHARES].mean().reindex(tasks)
        reach = np.array([means[MIDDLE] - means[LOW], means[HIGH] - means[MIDDLE]])
        by_task.bar(np.arange(len(tasks)) + wide * i, means[MIDDLE], wide, yerr=reach, ecolor="grey", capsize=2, **look)
    by_task.set_xticks(np.arange(len(tasks)) + (0.75 - wide) / 2, [t.replace(" ", "\n", 1) for t in tasks], fontsize=7)
    by_layer.xaxis.set_major_locator(MaxNLocator(integer=True))
    by_length.set(title="by length of the reply, anchor layer", xlabel="tokens of the reply (mean of the group)")
    by_task.set(title="by task, anchor layer")
    by_layer.set(title="by layer, all tasks", xlabel="layer")
    for axes in (by_length, by_task, by_layer):
        axes.set(ylabel="never active, % of visual tokens", ylim=(-3, 103))
    by_length.legend()
    return figure


def _grouped(lengths: pd.Series[int]) -> pd.Series[Any]:
    """A group per length, or twelve of about the same size where there are more."""
    return pd.qcut(lengths, 12, duplicates="drop") if lengths.nunique() > 12 else lengths


def _lines(axes: Axes, x: pd.Series[Any] | pd.Index[Any], means: pd.DataFrame, look: dict[str, Any]) -> None:
    axes.plot(x, 100 * means[MIDDLE], "o-", ms=3, **look)
    axes.fill_between(x, 100 * means[LOW], 100 * means[HIGH], color=look["color"], alpha=0.15)


def findings(frame: pd.DataFrame) -> list[Finding]:
    """How many tokens a whole reply leaves aside, and whether longer ones leave fewer."""
    found = []
    for name, own in frame[frame.watched].groupby("model"):
        means = own[SHARES].mean()
        found.append(Finding(
            "VisionPulse fig. 8", "most visual tokens are active at no step of the reply, at every threshold",
            str(name), bool(means.min() > 0.5),
            ", ".join(f"{100 * means[s]:.0f} % never above {d}" for s, d in zip(SHARES, DELTAS, strict=True))
            + f" ({len(own)} replies, layer {own.layer.iloc[0]})",
        ))  # fmt: skip
        rho = spearmanr(own.trace_length, own[MIDDLE])
        ordered, quarter = own.sort_values("trace_length"), -(-len(own) // 4)
        ends = [part[["trace_length", MIDDLE]].mean() for part in (ordered.head(quarter), ordered.tail(quarter))]
        found.append(Finding(
            "VisionPulse fig. 8", "longer replies leave fewer visual tokens inactive", str(name),
            bool(rho.statistic < 0 and rho.pvalue < 0.05),
            f"Spearman's rho {rho.statistic:.2f}; never above {DELTAS[1]}: "
            + ", ".join(f"{100 * e[MIDDLE]:.0f} % in the {which} quarter ({e.trace_length:.0f} tokens)"
                        for which, e in zip(("shortest", "longest"), ends, strict=True)),
        ))  # fmt: skip
    return found


NEVER_ACTIVE = Kind(
    "never_active",
    "Visual tokens whose attention stays below a threshold in the whole reply of the full model; lines and bars: above "
    f"{DELTAS[1]}, bands and whiskers: {DELTAS[0]} to {DELTAS[-1]} (VisionPulse figure 8).",
    measure, draw, findings,
)  # fmt: skip
