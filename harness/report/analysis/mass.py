"""Visual attention mass, active tokens and the budget by mass (VisionPulse, arXiv 2605.31457, figures 1, 3 and 7)."""

from __future__ import annotations

from random import Random

import pandas as pd
from hydra.utils import instantiate
from omegaconf import OmegaConf
from scipy.stats import mannwhitneyu

from harness.engine.watch import DELTAS
from harness.report.analysis.heatmaps import readings
from harness.report.analysis.kind import Ask, Finding, Kind
from harness.report.analysis.mass_figure import PRESETS, PUBLISHED, correlations, draw
from harness.report.analysis.stored import looked, watched_layer
from pruners import VisionPulse

STEPS = 2
"""Steps drawn at random from every reply."""


def measure(ask: Ask) -> pd.DataFrame:
    """A row per layer of some steps of every reply.

    `mass`: attention to visual tokens (mean over heads). `active_D`: tokens above the threshold D. `budget_P`: share of
    the tokens that this layer as anchor of preset P would keep, and `at_P` whether that is its floor, its cap or
    between; empty at step 0, which VisionPulse leaves alone. `reads`: 1 or 2 where the step writes the first or second
    thing that it reads off a needed region, 0 at others, empty where that is not known. `position`: of the step in the
    reply, 0 to 1. `watched`: the anchor.
    """
    presets = {key: _preset(ask, name) for key, name in PRESETS.items()}
    rows = []
    for reply in looked(ask, method="none"):
        length, depth = reply.steps.shape[:2]
        chosen, read = anchor(ask, depth), readings(reply)
        sample = {key: reply.sample[key] for key in ("model", "task", "id", "repeat")}
        for step in Random(str(sample)).sample(range(length), min(STEPS, length)):
            about = sample | {
                "step": step, "position": step / max(1, length - 1),
                "reads": None if read is None else read.get(step, (0, 0))[1],
                "visual_tokens": reply.record["visual_tokens"],
            }  # fmt: skip
            for layer in range(depth):
                seen = dict(zip(reply.record["measures"], reply.steps[step, layer].tolist(), strict=True))
                active = {f"active_{delta}": int(seen[f"active_{delta}"]) for delta in DELTAS}
                budgets = [_budget(name, preset, step, seen) for name, preset in presets.items()]
                own = {"layer": layer, "watched": layer == chosen, "mass": seen["mass"]}
                rows.append(about | own | active | budgets[0] | budgets[1])
    return pd.DataFrame(rows)


def anchor(ask: Ask, depth: int) -> int:
    """The layer to read: the one asked for, or VisionPulse's."""
    return VisionPulse().step_layer(depth) if ask.layer is None else watched_layer(ask, depth)


def _preset(ask: Ask, name: str) -> VisionPulse:
    found: VisionPulse = instantiate(OmegaConf.load(ask.configs.choose("pruner", name)))
    return found


def _budget(name: str, preset: VisionPulse, step: int, seen: dict[str, float]) -> dict[str, float | str | None]:
    raw = seen[f"budget_{preset.tau}"]
    at = "floor" if raw <= preset.low else "cap" if raw >= preset.high else "between"
    if step == 0:
        return {f"budget_{name}": None, f"at_{name}": None}
    return {f"budget_{name}": min(max(raw, preset.low), preset.high), f"at_{name}": at}


def findings(frame: pd.DataFrame) -> list[Finding]:
    """What the paper's figures say, model by model."""
    found = []
    for name, every in frame.groupby("model"):
        model, own = str(name), every[every.watched]
        budgets = [_moves(model, own, preset) for preset in PRESETS]
        found += [_correlation(model, every), _reading(model, own), *budgets, _sparse(model, own)]
    return found


def _correlation(model: str, every: pd.DataFrame) -> Finding:
    own, r = every[every.watched], correlations(every)
    layer = int(own.layer.iloc[0])
    at = r.loc[layer]
    by_delta = [f"{value:.2f} above {delta}" for value, delta in zip(at, DELTAS, strict=True)]
    said = [f"layer {layer} over {len(own)} steps: " + ", ".join(by_delta)]
    calm = own[own.reads == 0]
    if 2 < len(calm) < len(own):
        other = correlations(calm).loc[layer]
        said.append(f"there over steps that read nothing: {other.min():.2f} to {other.max():.2f}")
    if len(r) > 1:
        best = max((i for i in range(len(r)) if i != layer), key=lambda i: r.loc[i].min())
        said.append(f"best other layer, {best}: {r.loc[best].min():.2f} to {r.loc[best].max():.2f}")
    return Finding(
        "VisionPulse fig. 1, 3, 7",
        f"mass goes with the number of active tokens: r is at least {PUBLISHED[0]} at all thresholds",
        model, bool(at.min() >= PUBLISHED[0]), "; ".join(said),
    )  # fmt: skip


def _reading(model: str, own: pd.DataFrame) -> Finding:
    claim = "mass is higher at steps that write what they read off the picture"
    other, first, second = (own.mass[(own.step > 0) & (own.reads == n)] for n in range(3))
    if first.empty or other.empty:
        return Finding("VisionPulse fig. 1", claim, model, None, "which steps read the picture is not known")
    p = mannwhitneyu(first, other, alternative="greater").pvalue
    again = f", {second.mean():.3f} at {len(second)} that write a second thing" if len(second) else ""
    numbers = (
        f"{first.mean():.3f} at {len(first)} decode steps that write the first thing read off a cell{again}, "
        f"{other.mean():.3f} at {len(other)} others (p = {p:.2g})"
    )
    return Finding("VisionPulse fig. 1", claim, model, bool(p < 0.05), numbers)


def _moves(model: str, own: pd.DataFrame, preset: str) -> Finding:
    at, budget = own[f"at_{preset}"].dropna(), own[f"budget_{preset}"].dropna()
    cap, floor = (100 * (at == bound).mean() for bound in ("cap", "floor"))
    kept = (budget * own.visual_tokens[budget.index]).floordiv(1).clip(lower=1)
    reads = own.reads[at[at == "cap"].index].dropna()
    peaks = f"; {100 * (reads > 0).mean():.0f} % of those at the cap read a cell" if len(reads) else ""
    return Finding(
        "VisionPulse fig. 1, 3, 7",
        f"the budget of at most {preset} % moves: neither cap nor floor takes 90 % of the steps", model,
        bool(max(cap, floor) < 90),
        f"cap {cap:.0f} %, floor {floor:.0f} % of {len(budget)} steps, mean {100 * budget.mean():.1f} % or "
        f"{kept.mean():.1f} tokens{peaks}",
    )  # fmt: skip


def _sparse(model: str, own: pd.DataFrame) -> Finding:
    share = {delta: (own[f"active_{delta}"] / own.visual_tokens).mean() for delta in DELTAS}
    even = [f"{100 * (own.mass / own.visual_tokens > delta).mean():.0f} %" for delta in (DELTAS[0], DELTAS[-1])]
    return Finding(
        "VisionPulse fig. 1", "a step looks at few visual tokens (less than half are active at any threshold)", model,
        bool(max(share.values()) < 0.5),
        ", ".join(f"{100 * value:.0f} % above {delta}" for delta, value in share.items())
        + f"; were the mass spread evenly, all tokens would be active at {even[0]} ({DELTAS[0]}) to {even[1]} "
        f"({DELTAS[-1]}) of steps",
    )  # fmt: skip


MASS = Kind(
    "mass",
    f"Attention to the picture in {STEPS} random steps of every reply of the full model: its mass, how many tokens are "
    "active, and the budgets that VisionPulse's two presets would give (figures 1, 3 and 7).",
    measure, draw, findings,
    "Where the anchor layer of these models reads, it puts nearly all attention of a head on one cell, so that mass "
    "says whether something is read rather than how many tokens are active; layers that look around do better. The "
    "budgets follow the mass and switch between cap and floor. The thresholds were made for thousands of tokens: with "
    "few, an even share of the attention lies far above them, and active means little more than not ignored.",
)  # fmt: skip
