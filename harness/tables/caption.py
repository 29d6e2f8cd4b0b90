"""The sentences below a leaderboard: what was compared, how, and what its signs mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from harness.tables.stats import POWER

DIAGNOSTIC = frozenset({"blind", "random", "random_layer", "oracle", "replay"})


def notes(frame: pd.DataFrame, margin: float, against: str) -> tuple[str, ...]:
    """Caption of a judged leaderboard; sentences that do not apply are left out."""
    compared = frame[frame.p.notna()]
    small = compared.pairs < compared.n
    uneven = frame[frame.n > 0].groupby("title").n.nunique() > 1
    target = {"full": "the full model", "base": "the method without its add-on"}.get(against, f"{against}, same budget")
    out = [f"{count(len(frame), 'cell')}. Accuracy in % with its 95 % interval ({join(frame.rule)})."]
    if len(compared):
        out += [
            (
                f"Δ: paired difference to {target} in points, 95 % interval by paired cluster bootstrap. "
                f"p: {join(frame.test)}, Holm-adjusted over {count(len(compared), 'compared cell')}."
            ),
            (
                f"Verdict at the 5 % level: equivalent = shown to be within ±{count(margin, 'point')} (TOST, likewise "
                "adjusted); worse or better = p < 0.05 and not equivalent; inconclusive = neither shown."
            ),
            *power(frame, margin),
        ]
    out += noise(frame)
    if small.any():
        out += ["(n): pairs, where fewer than N samples were common to both cells."]
    if uneven.any():
        out += ["N differs within a section: read the paired Δ there, not the accuracies side by side."]
    out += [*scoring(frame), *versions(frame)]
    if frame.failed.sum():
        out += ["Failed samples have no reply; they count in no column but their own."]
    if frame.method.isin(DIAGNOSTIC).any():
        out += ["†: diagnostic, a floor or a ceiling and not a method to use."]
    out += [
        (
            "Retention: visual tokens kept, as asked for (nominal; of cache methods a share of all entries), as "
            "executed in prefill and decode (mean over layers), and as resident KV. Length: median tokens written. "
            "FLOPs, KV and seconds: mean per sample."
        )
    ]
    if frame.evidence.notna().any():
        out += [
            "Evidence recall: share of the picture regions that an answer needs which the model could read when it "
            "wrote what they show, mean over layers."
        ]
    if frame.title.str.contains("self-test").any():
        out += ["Self-test: made pictures and a tiny model; says that the harness works, not which method is best."]
    return (*out, "-: not defined, nothing finished, or nothing to compare with.")


def noise(frame: pd.DataFrame) -> list[str]:
    """What was found by running cells again."""
    if "noise" not in frame or frame.noise.isna().all():  # as in what was stored before it was known
        return []
    return [
        "Flips: % of samples whose answer changes when the same cell runs again (vtpbench repeat), the larger of "
        "repeats and batch shapes; a difference below it may be rounding."
    ]


def power(frame: pd.DataFrame, margin: float) -> list[str]:
    """How many samples would show a difference of the margin."""
    low, high = frame.needed.min(), frame.needed.max()
    if not low > 0:
        return []
    needed = f"{low:,.0f}" + (f" to {high:,.0f}" if high > low else "")
    return [
        f"To see a true difference of {count(margin, 'point')} with {100 * POWER:g} % power takes {needed} samples at "
        "the discordance seen here (clusters and Holm's first step counted)."
    ]


def versions(frame: pd.DataFrame) -> list[str]:
    """Cells that were made by more than one version of the code."""
    cells = list(frame.cell[frame.versions > 1])
    more = f" and {len(cells) - 3} more" if len(cells) > 3 else ""
    return [f"Made by more than one version of the code: {', '.join(cells[:3])}{more}."] if cells else []


def scoring(frame: pd.DataFrame) -> list[str]:
    """What must be known of rules, judges and protocols."""
    rules = sorted({f"{s['rule']}{_judge(s)}" for s in frame.scoring if not s["rule"].startswith("glyph.")})
    out = [f"Rules: {', '.join(rules)}; lenient: an answer read in any reasonable form."] if rules else []
    headlines = frame[frame.metric != "mean"]
    of = headlines.metric + " of " + headlines.benchmark + ", " + headlines.protocol
    for name, rows in headlines.groupby(of):
        notes = [n for n in dict.fromkeys(rows.metric_note) if n]
        out += [f"{name!s}: {_list(notes)}."] if notes else []
    if frame.unjudged.sum():
        out += ["Unjudged samples wait for a judge (vtpbench score RUN judge=...); they count in no accuracy."]
    for protocol, rows in frame.groupby("protocol"):
        name = str(protocol).rstrip("*")
        changed = sorted({key for keys in rows.changed for key in keys})
        out += [f"{protocol}: {name} with {', '.join(changed)} changed."] if changed else []
        assumed = list(dict.fromkeys(text for texts in rows.assumed for text in texts))
        out += [f"{name} leaves open; assumed: {_list(assumed)}."] if assumed else []
    return out


def _judge(scoring: Mapping[str, Any]) -> str:
    return f" (judge {scoring['judge']['model']})" if scoring["judge"] else ""


def _list(texts: Sequence[str]) -> str:
    return "; ".join(text.rstrip(".") for text in texts)


def join(names: pd.Series) -> str:
    return " or ".join(sorted(names.dropna().unique())) or "none finished"


def count(n: float, noun: str) -> str:
    return f"{n:g} {noun}{'' if n == 1 else 's'}"
