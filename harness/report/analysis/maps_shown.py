"""Figure and findings of maps."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import spearmanr

from harness.report.analysis.figures import COLOURS, colours, panels
from harness.report.analysis.kind import Finding, Kind
from harness.report.analysis.maps import BINS, KINDS, measure

ROWS = 3
"""Samples that are drawn at most."""
MEASURED = {"hit": "highest is needed, %", "third": "needed in highest third, %", "auc": "above another token, %"}


def draw(frame: pd.DataFrame) -> Figure:
    """Above how well maps find what is needed, below maps of a few samples of the model that has most kinds."""
    maps = frame[frame.part == "map"]
    model = str(maps.groupby("model").kind.nunique().idxmax())
    pictures = frame[(frame.part == "picture") & (frame.model == model)]
    pictures = pictures.sort_values("task", kind="stable").head(ROWS)
    kinds = [kind for kind in KINDS if kind in set(maps[maps.model == model].kind)]
    figure, axes = panels(1 + len(pictures), 5, width=2.5, height=2.4)
    _summary(frame, axes[:5])
    for r, (_, shown) in enumerate(pictures.iterrows(), start=1):
        row = axes[5 * r : 5 * (r + 1)]
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown.png))))
        row[0].imshow(picture, interpolation="nearest")
        row[0].set_title(_folded(f"{model}: {shown.reason}"), fontsize=7)
        own = maps[(maps.model == model) & (maps.task == shown.task) & (maps.id == shown.id)]
        for axis, kind in zip(row[1:], kinds, strict=False):
            _overlay(axis, picture, own[own.kind == kind])
            axis.set_title(kind)
        for axis in row:
            axis.set_axis_off()
    return figure


def _summary(frame: pd.DataFrame, axes: list[Axes]) -> None:
    score, profile = frame[frame.part == "score"], frame[(frame.part == "profile") & (frame.kind == "cross")]
    kinds, colour = [k for k in KINDS if k in set(score.kind)], colours(sorted(score.model.unique()))
    for i, (model, own) in enumerate(score.groupby("model")):
        for axis, name in zip(axes, [*MEASURED, "change"], strict=False):
            part = own.groupby("kind")[name].agg(["mean", "sem"]).reindex(kinds) * (1 if name == "change" else 100)
            axis.bar(np.arange(len(kinds)) + 0.25 * i, part["mean"], 0.25, yerr=part["sem"], color=colour[str(model)])
        mean = profile[profile.model == model].groupby("bin").value.mean()
        axes[4].plot((mean.index + 0.5) / BINS, mean, color=colour[str(model)], lw=1, label=str(model))
    for axis, title in zip(axes, [*MEASURED.values(), "1 - r, another question"], strict=False):
        axis.set_xticks(np.arange(len(kinds)) + 0.25, kinds, rotation=30, fontsize=7)
        axis.set(title=title)
    for axis, chance in zip(axes, (100 * score.chance.mean(), 100 / 3, 50), strict=False):
        axis.axhline(chance, color="0.3", lw=0.8, ls=":")
    axes[4].axhline(1, color="0.3", lw=0.8, ls=":")
    axes[4].set(title="mean cross, by place", xlabel="place in the visual sequence", ylabel="multiple of even")
    axes[4].legend(fontsize=6, loc="upper left")
    axes[4].set_ylim(0, 1.35 * axes[4].get_ylim()[1])


def _folded(text: str, width: int = 38) -> str:
    words, lines = text.split(), [""]
    for word in words:
        lines = [*lines, word] if len(lines[-1]) + len(word) > width else [*lines[:-1], f"{lines[-1]} {word}".strip()]
    return "\n".join(lines)


def _overlay(axis: Axes, picture: NDArray[np.uint8], own: pd.DataFrame) -> None:
    """A map over its picture, the needed tokens outlined."""
    high, wide = picture.shape[:2]
    axis.imshow(picture.mean(-1), cmap="gray", interpolation="nearest")
    edges = own[["left", "top", "right", "bottom"]].to_numpy(float) * [wide, high, wide, high] - 0.5
    boxes = [Rectangle((left, top), right - left, bottom - top) for left, top, right, bottom in edges]
    shades = PatchCollection(boxes, cmap="viridis", alpha=0.75, linewidths=0)
    shades.set_array(own.value.rank().to_numpy())
    axis.add_collection(shades)
    needed = [box for box, is_needed in zip(boxes, own.needed.astype(bool), strict=True) if is_needed]
    axis.add_collection(PatchCollection(needed, facecolor="none", edgecolor=COLOURS[1], linewidths=2))


def findings(frame: pd.DataFrame) -> list[Finding]:
    """DeSAP's claims about the maps, model by model."""
    return [f for name in frame.model.unique() for f in _found(str(name), frame[frame.model == name])]


def _found(model: str, own: pd.DataFrame) -> Iterator[Finding]:
    score = own[own.part == "score"]
    mean = score.groupby("kind")[["hit", "ninth", "auc"]].mean()

    def numbers(kind: str) -> str:
        m = mean.loc[kind]
        return f"{kind}: needed cell highest {m.hit:.1%}, in the highest ninth {m.ninth:.1%}, AUC {m.auc:.3f}"

    claim = "decoupled similarity finds what the question speaks of better than vanilla similarity"
    if {"vanilla", "decoupled"} <= set(mean.index):
        holds = bool(mean.auc["decoupled"] > mean.auc["vanilla"])
        yield Finding(
            "DeSAP, ablation of similarity", claim, model, holds, f"{numbers('vanilla')}; {numbers('decoupled')}"
        )
    for _, skipped in own[(own.part == "skipped") & (own.kind == "decoupled")].iterrows():
        yield Finding("DeSAP, ablation of similarity", claim, model, None, f"not measured: {skipped.reason}")
    if "cross" in mean.index:
        profile = own[(own.part == "profile") & (own.kind == "cross")].groupby("bin").value.mean().dropna()
        rho = spearmanr(profile.index, profile)
        yield Finding(
            "DeSAP fig. 1, 2", "cross-attention prefers late places", model,
            bool(rho.statistic > 0 and rho.pvalue < 0.05),
            f"Spearman's rho of mean attention with place {rho.statistic:.2f} (p = {rho.pvalue:.2g}); "
            f"second half {profile[profile.index >= BINS / 2].mean():.2f} of even; {numbers('cross')}",
        )  # fmt: skip
    if "cls" in mean.index:
        cls = score[score.kind == "cls"]
        yield Finding(
            "DeSAP fig. 1, 2", "attention of the class token does not depend on the question", model,
            bool((cls.change.abs() < 1e-6).all()), f"largest 1 - r to another question's {cls.change.max():.2g}",
        )  # fmt: skip
        auc = cls.auc.to_numpy(float)
        low, high = auc.mean() + 1.96 * auc.std(ddof=1) / len(auc) ** 0.5 * np.array([-1, 1])
        yield Finding(
            "DeSAP fig. 1, 2", "attention of the class token finds what is needed no better than chance", model,
            bool(low <= 0.5 <= high), f"{numbers('cls')} ({low:.3f} to {high:.3f})",
        )  # fmt: skip


MAPS = Kind(
    "maps",
    "Maps that methods rank visual tokens by, of look-ups (the cell asked for) and walks (the start): class token's "
    "attention in the tower (received attention where there is none), last prompt token's attention in the language "
    "model, cosine to the question as CLIP has it, DeSAP's task score (DeSAP figures 1, 2, 6 to 9). Dots: chance; "
    "colours of drawn maps are ranks, the needed cell is outlined.",
    measure, draw, findings,
    "Vanilla against decoupled similarity is no evidence here: the tiny CLIP was trained so that patches behind the "
    "tower's ordinary layers are least like the words that name them, and what attention between queries makes of them "
    "is most like them, as is known of OpenAI's CLIP. Ranked by minus the cosine, as TRIM ranks, the vanilla map finds "
    "the cell, too.",
    stored=False,
)  # fmt: skip
