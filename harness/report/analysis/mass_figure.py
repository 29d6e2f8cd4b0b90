"""The figure of `mass`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.engine.watch import DELTAS
from harness.report.analysis.figures import colours, panels

PUBLISHED = (0.82, 0.95)
"""Pearson's r of mass and active tokens in the paper, over its thresholds."""
ACTIVE = [f"active_{delta}" for delta in DELTAS]
PRESETS = {"10": "visionpulse_10", "5": "visionpulse_5"}
"""Of VisionPulse, by the largest share of the visual tokens that they keep, in percent."""


def correlations(frame: pd.DataFrame) -> pd.DataFrame:
    """Pearson's r of mass and active tokens in these rows: a row per layer, a column per threshold."""
    return pd.DataFrame({layer: own[ACTIVE].corrwith(own.mass) for layer, own in frame.groupby("layer")}).T


def draw(frame: pd.DataFrame) -> Figure:
    """Mass against active tokens, r by layer, active tokens by threshold; how budgets move, and what mass says."""
    figure, (scatter, by_layer, active, along, where, reading) = panels(2, 3)
    colour = colours(sorted(frame.model.unique()))
    wide, middle = 0.75 / len(colour), 0.75 * (len(colour) - 1) / len(colour) / 2
    for i, (name, every) in enumerate(frame.groupby("model")):
        look: dict[str, Any] = {"color": colour[str(name)], "label": name}
        own, r = every[every.watched], correlations(every)
        share = 100 * own[ACTIVE].div(own.visual_tokens, axis=0)
        scatter.plot(own.mass, share[ACTIVE[1]], ".", ms=2, alpha=0.4, rasterized=True, **look)
        by_layer.plot(r.index, r[ACTIVE[1]], "o-", ms=3, **look)
        by_layer.fill_between(r.index, r.min(axis=1), r.max(axis=1), color=look["color"], alpha=0.15)
        active.plot(range(len(DELTAS)), share.mean(), "o-", ms=3, **look)
        _budgets(along, where, wide * i, wide, own, look["color"])
        means = own[own.step > 0].groupby("reads").mass.mean().reindex(range(3))
        reading.bar(np.arange(3) + wide * i, means, wide, **look)
    by_layer.axhspan(*PUBLISHED, color="grey", alpha=0.25, label="paper")
    by_layer.xaxis.set_major_locator(MaxNLocator(integer=True))
    by_layer.set(title="their r by layer (band: four thresholds)", xlabel="layer", ylabel="Pearson's r")
    by_layer.legend()
    scatter.set(title=f"mass and active tokens (> {DELTAS[1]}), anchor", xlabel="attention mass", ylabel="active, %")
    active.set_xticks(range(len(DELTAS)), [str(delta) for delta in DELTAS])
    active.set(title="active tokens, anchor layer", xlabel="threshold", ylabel="active, % (mean)")
    active.set_ylim(0)
    along.set(title="budget along the reply (solid 10 %, dashed 5 %)", xlabel="position in the reply (0 to 1)")
    along.set(ylabel="budget, % of tokens (mean)", ylim=(0, 10.5))
    where.set(title="steps at the budget's cap (dark) and floor (light)", ylabel="steps, %", ylim=(0, 103))
    where.set_xticks([middle, 1 + middle], [f"at most {preset} %" for preset in PRESETS])
    reading.set(title="mass by what a decode step writes, anchor", ylabel="attention mass (mean)")
    reading.set_xticks(np.arange(3) + middle, ["nothing\nread", "first thing read\noff a cell", "second"])
    return figure


def _budgets(along: Axes, where: Axes, left: float, wide: float, own: pd.DataFrame, colour: str) -> None:
    """Budgets of the presets by tenths of the reply, and how often they rest at a bound."""
    tenth = (own.position * 10).clip(upper=9).astype(int) / 10 + 0.05
    for j, (preset, style) in enumerate(zip(PRESETS, ("-", "--"), strict=True)):
        means = 100 * own.groupby(tenth)[f"budget_{preset}"].mean()
        along.plot(means.index, means, style, color=colour)
        share = 100 * own[f"at_{preset}"].value_counts(normalize=True).reindex(["cap", "floor"], fill_value=0)
        where.bar(j + left, share["cap"], 0.95 * wide, color=colour)
        where.bar(j + left, share["floor"], 0.95 * wide, bottom=share["cap"], color=colour, alpha=0.35)
