"""What pruning in prefill costs a glance and what it costs reasoning (DSTP, arXiv 2604.12358, figure 1a)."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from harness.report.analysis.figures import panels
from harness.report.analysis.kind import Ask, Finding, Kind
from harness.report.analysis.methods import QUERY_AWARE, ordered, palette
from harness.report.analysis.stored import chosen, samples
from harness.tables.stats.accuracy import wilson

GLANCES = ("glyph_lookup", "gqa", "textvqa", "pope", "scienceqa")
"""Benchmarks answered at a glance; DSTP's own division into question answering and reasoning."""
AT = 1 / 3
SAME = ["model", "task", "id", "repeat"]


def measure(ask: Ask) -> pd.DataFrame:
    """A row per model, family of questions, method and budget.

    `family` is the task; look-ups of the glyph world are split by how the cell is named. `kept`: accuracy over that of
    the full model on the same samples; `low` and `high`: the same of the accuracy's Wilson interval, 95 %.
    """
    rows = samples(ask)
    rows = rows[rows.addon == "none"].assign(benchmark=rows.task.str.split().str[0])
    full = chosen(rows, method="none").set_index(SAME).credit
    pruned = rows[rows.keep.notna() & (rows.method != "none")]
    pruned = pruned.join(full.rename("full"), on=SAME).dropna(subset=["credit", "full"])
    lookups = pruned.benchmark == "glyph_lookup"
    pruned["family"] = pruned.task.where(~lookups, "look-up by " + pruned.category)
    pruned["glance"] = pruned.benchmark.isin(GLANCES)
    found = [_row(dict(zip(KEYS, key, strict=True)), own) for key, own in pruned.groupby(KEYS, observed=True)]
    return pd.DataFrame(found)


KEYS = ["model", "glance", "family", "method", "keep"]


def _row(key: dict[str, Any], own: pd.DataFrame) -> dict[str, Any]:
    accuracy, full = wilson(own.credit.mean(), len(own)), own.full.mean()
    shares = {"kept": accuracy.value, "low": accuracy.low, "high": accuracy.high}
    return {
        **key, "query_aware": key["method"] in QUERY_AWARE, "n": len(own), "full": full, "accuracy": accuracy.value,
        **{name: value / full if full else float("nan") for name, value in shares.items()},
    }  # fmt: skip


def draw(frame: pd.DataFrame) -> Figure:
    """A row of panels per model, a panel per family, a line per method."""
    models = sorted(frame.model.unique())
    families = sorted(frame.family.unique(), key=lambda f: (not frame[frame.family == f].glance.any(), f))
    figure, axes = panels(len(models), len(families), 2.9, 2.4)
    colour = palette(frame.method.unique())
    for i, model in enumerate(models):
        for j, family in enumerate(families):
            panel = axes[i * len(families) + j]
            own = frame[(frame.model == model) & (frame.family == family)].sort_values("keep")
            for method in ordered(own.method):
                line = own[own.method == method]
                error = 100 * (line.kept - line.low), 100 * (line.high - line.kept)
                panel.errorbar(
                    range(len(line)), 100 * line.kept, error, fmt="o-" if line.query_aware.all() else "s:", ms=4,
                    lw=1.6, elinewidth=0.7, color=colour[method],
                    label=method + (" (reads the question)" if line.query_aware.all() else ""),
                )  # fmt: skip
            keeps = sorted(own.keep.unique())
            panel.set_xticks(range(len(keeps)), [f"{keep:.2f}" for keep in keeps])
            panel.set(title=f"{model}\n{family}", ylim=(-4, 112))
            panel.set_xlabel("visual tokens kept" if i == len(models) - 1 else "")
            panel.set_ylabel("accuracy, % of the full model's" if j == 0 else "")
    lines = {label: line for panel in axes for line, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=3)
    return figure


def findings(frame: pd.DataFrame) -> list[Finding]:
    """At a third of the tokens: what is left of glances with methods that read the question, and of reasoning."""
    third = frame[(frame.keep - AT).abs() < 0.01]
    found = []
    for model, own in third.groupby("model"):
        aware, glance, walk = own[own.query_aware], own[own.glance], own[~own.glance]
        best = aware[aware.glance].groupby("method").kept.mean()
        families = aware[aware.glance].sort_values(["method", "family"]).to_dict("records")
        found.append(Finding(
            "-", "at 1/3, glances keep more than 90 % with a method that reads the question", str(model),
            bool(best.max() > 0.9) if len(best) else None,
            "; ".join("{method} {family} {kept:.0%} [{low:.0%}, {high:.0%}]".format_map(row) for row in families),
        ))  # fmt: skip
        drops = pd.DataFrame({
            "glance": 1 - glance.groupby("method").kept.mean(), "reasoning": 1 - walk.groupby("method").kept.mean(),
        }).dropna()  # fmt: skip
        found.append(Finding(
            "DSTP fig. 1a", "pruning in prefill costs reasoning more than glances", str(model),
            bool((drops.reasoning > drops.glance).all()) if len(drops) else None,
            "lost of reasoning and of glances at 1/3: "
            + "; ".join(f"{m} {d.reasoning:.0%} and {d.glance:.0%}" for m, d in drops.iterrows()),
        ))  # fmt: skip
    return found


FAMILY_GAP = Kind(
    "family_gap",
    "Accuracy left after pruning in prefill, of questions that one glance answers and of reasoning, with 95 % Wilson "
    "intervals (DSTP figure 1a). Solid: methods that read the question.",
    measure, draw, findings,
    notes="Why FastV finds so little of the tiny models' look-ups: it ranks by the attention of the layer before its "
    "cut, and these models look at the cell in the layer behind it. Cut one layer later (pruner.layer=3) look-ups lose "
    "nothing, but with tokens drawn at random there they lose nothing either: the cell has been read by then.",
)  # fmt: skip
