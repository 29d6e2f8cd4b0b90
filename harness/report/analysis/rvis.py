"""Shifts of visual attention while reasoning: DSTP's RVIS events (arXiv 2604.12358, Algorithm I, figures 2 to 5, 7)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.signal import find_peaks
from scipy.stats import spearmanr

from harness.report.analysis.figures import colours, panels
from harness.report.analysis.kind import Ask, Finding, Kind
from harness.report.analysis.stored import looked, watched_layer

THRESHOLD = 0.7


def rvis_events(similarity: NDArray[np.float64], threshold: float = THRESHOLD) -> NDArray[np.int64]:
    """Steps at which the attention to the picture has shifted, with the settings of the paper's Algorithm I.

    Args:
        similarity: [T] cosine of each new token's attention over visual tokens to that of the last prompt token, in a
            run of the full model.

    Returns:
        The steps, from 0, that are below the threshold and local minima (of several equal neighbours the middle one).
    """
    dips, _ = find_peaks(-similarity)
    return np.asarray(dips[similarity[dips] < threshold])


def measure(ask: Ask) -> pd.DataFrame:
    """A row per model, task, sample and layer; `watched` marks the layer that figure and findings read."""
    rows = []
    for reply in looked(ask, method="none"):
        similarity = reply.measure("similarity")[1:]  # step 0 is the anchor itself
        chosen = watched_layer(ask, similarity.shape[1])
        for layer, own in enumerate(similarity.T):
            rows.append({
                **{key: reply.sample[key] for key in ("model", "task", "id", "category")},
                "correct": reply.sample["credit"], "trace_length": len(own) + 1, "layer": layer,
                "watched": layer == chosen, "events": len(rvis_events(own)),
                "mean_similarity": own.mean() if len(own) else np.nan,
            })  # fmt: skip
    return pd.DataFrame(rows)


def draw(frame: pd.DataFrame) -> Figure:
    """Events by task, by length of the trace, and success against events."""
    figure, (by_task, by_length, success) = panels(1, 3)
    watched = frame[frame.watched]
    colour = colours(sorted(watched.model.unique()))
    tasks, width = sorted(watched.task.unique()), 0.75 / watched.model.nunique()
    for i, (model, own) in enumerate(watched.groupby("model")):
        means = own.groupby("task").events.mean().reindex(tasks)
        by_task.bar(np.arange(len(tasks)) + width * (i + 0.5), means, width, color=colour[str(model)], label=model)
        lengths = own.groupby("trace_length").events.mean()
        by_length.plot(lengths.index, lengths, ".", ms=4, color=colour[str(model)], label=model)
        right = own.groupby("events").correct.agg(["mean", "size"]).query("size >= 10")
        success.plot(right.index, 100 * right["mean"], "o-", ms=3, color=colour[str(model)], label=model)
    by_task.set_xticks(np.arange(len(tasks)) + 0.375, [task.replace(" ", "\n", 1) for task in tasks], fontsize=7)
    by_task.set(title="events by task", ylabel="events per reply (mean)")
    by_length.set(title="events by length of the reply", xlabel="tokens", ylabel="events per reply (mean)")
    success.set(title="success by events (10 replies and more)", xlabel="events", ylabel="right, %", ylim=(-3, 103))
    by_task.legend()
    return figure


def findings(frame: pd.DataFrame) -> list[Finding]:
    """Figures 2 to 5 of the paper, model by model."""
    found = []
    for name, own in frame[frame.watched].groupby("model"):
        model, tasks = str(name), own.groupby("task").agg(events=("events", "mean"), length=("trace_length", "median"))
        tasks = tasks.sort_values("length")
        found.append(Finding(
            "DSTP fig. 2-3", "reasoning shifts the attention to the picture more often than a glance", model,
            bool(tasks.events.iloc[-1] > tasks.events.iloc[0]) if len(tasks) > 1 else None,
            "; ".join(f"{task} {mean:.2f} events a reply" for task, mean in tasks.events.items()),
        ))  # fmt: skip
        varied = own.trace_length.nunique() > 1 and own.events.nunique() > 1
        rho = spearmanr(own.trace_length, own.events) if varied else None
        found.append(Finding(
            "DSTP fig. 4", "longer replies have more events", model,
            bool(rho.statistic > 0 and rho.pvalue < 0.05) if rho else None,
            f"Spearman's rho {rho.statistic:.2f} over {len(own)} replies" if rho else "all replies are alike",
        ))  # fmt: skip
        found.append(_success(model, own[own.task == tasks.index[-1]]))
    return found


def _success(model: str, own: pd.DataFrame) -> Finding:
    """Success against events in the task with the longest replies, and among its replies of equal category, which for
    walks is their length: harder questions both shift more and fail more, so that the plain correlation says little."""
    mixed = own[own.groupby("category").correct.transform("nunique") > 1]
    more = [
        part.events[part.correct < 1].mean() - part.events[part.correct == 1].mean()
        for _, part in mixed.groupby("category")
    ]
    if not more:
        return Finding("DSTP fig. 5, 7", "replies with more events fail more often", model, None, "no reply is wrong")
    rho = spearmanr(own.events, own.correct)
    numbers = (
        f"{own.task.iloc[0]}: rho {rho.statistic:.2f} (p = {rho.pvalue:.2g}) over {len(own)} replies; at equal length "
        f"wrong ones have {np.mean(more):+.2f} events ({(mixed.correct < 1).sum()} wrong of {len(mixed)})"
    )
    holds = bool(rho.statistic < 0 and rho.pvalue < 0.05)
    return Finding("DSTP fig. 5, 7", "replies with more events fail more often", model, holds, numbers)


RVIS = Kind(
    "rvis",
    "Shifts of visual attention (RVIS events) in replies of the full model: steps at which the similarity to the "
    f"attention of the last prompt token is a local minimum below {THRESHOLD} (DSTP figures 2 to 5 and 7).",
    measure, draw, findings,
    notes="Success is judged in the task with the longest replies alone. The tiny models fail at walks that are longer "
    "than those they learned, at nearly all of them, and end those replies early, with fewer events; they hardly ever "
    "fail at others, so that replies to equal walks with both outcomes are few.",
)  # fmt: skip
