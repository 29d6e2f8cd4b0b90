"""The figure of `heatmaps`: one reply per model, map by map, and all replies below."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from harness.report.analysis.figures import colours, panels
from harness.report.analysis.rvis import THRESHOLD


def draw(frame: pd.DataFrame) -> Figure:
    """Two rows of panels per model (maps; curve of similarity) and one for all replies."""
    models = sorted(frame.model.unique())
    columns = int(frame[frame.part == "map"].groupby("model").step.nunique().max())
    figure, axes = panels(2 * len(models) + 1, columns, width=9.6 / columns, height=1.75)
    grid = axes[0].get_subplotspec().get_gridspec()  # type: ignore[union-attr]
    for axis in axes[2 * len(models) * columns :]:
        axis.remove()
    for i, name in enumerate(models):
        own = frame[frame.model == name]
        row = axes[2 * i * columns :]
        _maps(name, row[:columns], own[own.part == "map"])
        for axis in row[columns : 2 * columns]:
            axis.remove()
        _curve(figure.add_subplot(grid[2 * i + 1, :]), own[own.part == "curve"], own[own.part == "map"])
    half = max(1, columns // 2)
    if (frame.part == "reading").any():
        _hits(figure.add_subplot(grid[-1, :half]), frame[frame.part == "reading"])
    _overlap(figure.add_subplot(grid[-1, half:] if half < columns else grid[-1, :]), frame[frame.part == "reply"])
    return figure


def _maps(name: str, axes: list[Axes], own: pd.DataFrame) -> None:
    """One panel a step; pictures of a prompt stand side by side, and small boxes lie above large ones."""
    for axis, (step, part) in zip(axes, own.groupby("step"), strict=False):
        most = part.attention.max() or 1.0
        size = (part.bottom - part.top) * (part.right - part.left)
        ordered = part.assign(size=size).sort_values(["size", "needed"], ascending=[False, True])
        for box in ordered.to_dict("records"):
            corner = (box["left"] + 1.1 * box["picture"], box["top"])
            sides = box["right"] - box["left"], box["bottom"] - box["top"]
            edge = ("#D55E00", 1.8) if box["needed"] else ("0.85", 0.3)
            shade = str(1 - 0.9 * box["attention"] / most)
            axis.add_patch(Rectangle(corner, *sides, facecolor=shade, edgecolor=edge[0], linewidth=edge[1]))
        axis.set(
            xlim=(-0.02, 1.02 + 1.1 * part.picture.max()), ylim=(1.02, -0.02), aspect="equal", xticks=[], yticks=[]
        )
        axis.spines[:].set_visible(False)
        word = f', "{part.word.iloc[0]}"' if part.word.notna().all() else ""
        axis.set_title("prefill" if step == 0 else f"step {step:.0f}{word}", fontsize=8)
    for axis in axes[own.step.nunique() :]:
        axis.set_axis_off()
    axes[0].set_ylabel(f"{name}\n{own.task.iloc[0].split()[0]} {own.id.iloc[0]}", fontsize=8)


def _curve(axis: Axes, own: pd.DataFrame, shown: pd.DataFrame) -> None:
    events = own[own.event.astype(bool)]
    axis.plot(own.step, own.similarity, "-", color="#0072B2", lw=1.2)
    axis.plot(events.step, events.similarity, "v", color="#D55E00", ms=4, label="RVIS event")
    axis.axhline(THRESHOLD, color="grey", lw=0.8, ls="--")
    axis.vlines(shown.step.unique(), 0, 1, color="black", lw=0.6, ls=":", label="shown above")
    axis.set(xlabel="step", ylabel="similarity to\nprefill (cosine)", ylim=(-0.03, 1.05))
    axis.margins(x=0.01)
    axis.legend(loc="upper right", ncols=2)


def _hits(axis: Axes, read: pd.DataFrame) -> None:
    colour = colours(sorted(read.model.unique()))
    for i, (name, own) in enumerate(read[(read.step > 0) & (read.nth == 1)].groupby("model")):
        hits = own.astype({"hit": float, "hit_prefill": float})
        by_number = 100 * hits.groupby("number")[["hit", "hit_prefill"]].mean()
        axis.plot(by_number.index + 1, by_number.hit, lw=max(1, 5 - 2 * i), color=colour[str(name)])
        axis.plot(by_number.index + 1, by_number.hit_prefill, "o--", ms=3, mfc="white", color=colour[str(name)])
    axis.set(title="needed cell among the top tokens (dashed: of the prefill)", xlabel="cell of the walk")
    axis.set(ylabel="steps, %", ylim=(-3, 103))


def _overlap(axis: Axes, replies: pd.DataFrame) -> None:
    colour = colours(sorted(replies.model.unique()))
    for name, own in replies[replies.overlap.notna()].groupby("model"):
        axis.hist(
            100 * own.overlap, bins=range(0, 105, 5), histtype="step", lw=1.5, color=colour[str(name)], label=str(name)
        )
    axis.axvline(100 * (replies.k / replies.visual_tokens).mean(), color="grey", lw=0.8, ls="--")
    axis.set(
        title="overlap with the prefill's top tokens (dashed: chance)", xlabel="top tokens in common, % (mean of steps)"
    )
    axis.set(ylabel="replies", xlim=(-2, 102))
    axis.legend()
