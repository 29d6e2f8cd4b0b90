"""Where replies look, step by step: attention maps at prefill and while decoding (DSTP, arXiv 2604.12358, figure 1)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from harness.benchmarks.glyph_tasks import read_at
from harness.benchmarks.glyphs import ARROWS
from harness.report.analysis.heatmap_figure import draw
from harness.report.analysis.kind import Ask, Finding, Kind
from harness.report.analysis.rvis import THRESHOLD, rvis_events
from harness.report.analysis.stored import Looked, looked, watched_layer

MAPS = 6
"""Maps drawn of one reply, that of the prefill included."""


def readings(reply: Looked) -> dict[int, tuple[int, int]] | None:
    """Steps that write what they read off a needed region of a glyph picture: {step: (number of the region, first or
    second thing that is written of it)}.

    A look-up writes its cell's content first of all; a walk writes pips (1) and arrow (2) of its k-th cell behind the
    k-th place name, as in "c3 4 = 9 up". None where that is not known: nothing is said to be needed, or tokens are no
    words.
    """
    text, needed, words = str(reply.sample["text"]), reply.record["needed"], _words(reply)
    if not needed or not words:
        return None
    places = read_at(text, len(needed), walk=str(reply.sample["task"]).startswith("glyph_walk"))
    found = [(place, k, nth) for k, own in enumerate(places) for nth, place in enumerate(own, 1) if place < len(text)]
    steps = {len(text[:place].split()): (k, nth) for place, k, nth in found}
    return {step: (k, nth) for step, (k, nth) in steps.items() if nth == 1 or words[step] in ARROWS}


def _words(reply: Looked) -> list[str]:
    """What each step wrote, where tokens are words; else none."""
    words = str(reply.sample["text"]).split()
    return words if len(reply.steps) - len(words) in (0, 1) else []  # the last step may write the end of the reply


def measure(ask: Ask) -> pd.DataFrame:
    """Rows of four kinds, told apart by `part`.

    * reply: every reply of the full model. `overlap`: share of the `k` most attended tokens (k: a ninth of all, at
      most as many as the record has) that are also among those of the prefill, mean over decode steps.
    * reading: every step of a right reply that writes the first or second thing (`nth`) that it reads off a needed
      region, the `number`-th from 0. `hit`: whether one of its tokens is among the k most attended;
      `hit_prefill`: among the k of the prefill.
    * map: the drawn reply, which is the longest right one of each model. A row per shown `step` and visual token, with
      its `attention` (0 beyond those recorded), box, and whether this step needs it.
    * curve: its `similarity` to the prefill by step, and which steps are RVIS events.
    """
    rows: list[dict[str, Any]] = []
    drawn: dict[str, Looked] = {}
    for reply in looked(ask, method="none"):
        name = reply.sample["model"]
        rows += _looks(reply)
        if name not in drawn or _rank(reply) > _rank(drawn[name]):
            drawn[name] = reply
    for reply in drawn.values():
        rows += _map(reply) + _curve(ask, reply)
    return pd.DataFrame(rows)


def _rank(reply: Looked) -> tuple[bool, int]:
    return reply.sample["credit"] == 1, len(reply.steps)


def _sample(reply: Looked, part: str) -> dict[str, Any]:
    return {"part": part, **{key: reply.sample[key] for key in ("model", "task", "id")}}


def _looks(reply: Looked) -> list[dict[str, Any]]:
    tokens, needed = reply.record["visual_tokens"], reply.record["needed"]
    k = max(1, min(len(reply.record["top"][0][0]), tokens // 9))
    top = [found[:k] for found, _ in reply.record["top"]]
    shares = [len({*found} & {*top[0]}) / k for found in top[1:]]
    rows = [{
        **_sample(reply, "reply"), "visual_tokens": tokens, "k": k, "correct": reply.sample["credit"],
        "trace_length": len(top), "overlap": np.mean(shares) if shares else None,
    }]  # fmt: skip
    for step, (number, nth) in (readings(reply) or {}).items() if reply.sample["credit"] == 1 else ():
        region = {*needed[number]}
        rows.append({
            **_sample(reply, "reading"), "visual_tokens": tokens, "k": k, "step": step, "number": number, "nth": nth,
            "hit": bool(region & {*top[step]}), "hit_prefill": bool(region & {*top[0]}),
        })  # fmt: skip
    return rows


def _map(reply: Looked) -> list[dict[str, Any]]:
    """The prefill, and steps spread evenly over those that write the first thing read off a region, or over all."""
    read, needed, words = readings(reply) or {}, reply.record["needed"], _words(reply)
    steps = [step for step, (_, nth) in read.items() if step and nth == 1] or list(range(1, len(reply.steps)))
    few = min(MAPS - 1, len(steps))
    rows = []
    for step in [0, *(steps[i * (len(steps) - 1) // max(1, few - 1)] for i in range(few))]:
        weight = dict(zip(*reply.record["top"][step], strict=True))
        region = needed[read.get(step, (0, 1))[0]] if needed else []
        for token, box in enumerate(reply.record["boxes"]):
            if box is not None:
                places = dict(zip(("picture", "top", "left", "bottom", "right"), box, strict=True))
                rows.append({
                    **_sample(reply, "map"), "step": step, "word": " ".join(words[step : step + 1]), "token": token,
                    **places, "attention": weight.get(token, 0.0), "needed": token in region,
                })  # fmt: skip
    return rows


def _curve(ask: Ask, reply: Looked) -> list[dict[str, Any]]:
    similarity = reply.measure("similarity")[:, watched_layer(ask, reply.steps.shape[1])]
    events = {*(1 + rvis_events(similarity[1:]))}
    return [
        {**_sample(reply, "curve"), "step": t, "similarity": value, "event": t in events}
        for t, value in enumerate(similarity)
    ]


def findings(frame: pd.DataFrame) -> list[Finding]:
    """Whether decoding looks elsewhere than the prefill, over all replies."""
    found = []
    for name, own in frame.groupby("model"):
        replies, read = own[(own.part == "reply") & own.overlap.notna()], own[(own.part == "reading") & (own.step > 0)]
        found.append(_elsewhere(str(name), replies))
        if not read.empty:
            found.append(_needed(str(name), read))
    return found


def _elsewhere(model: str, replies: pd.DataFrame) -> Finding:
    claim = "decoding looks at other regions than the prefill: fewer than half of the top tokens are the same"
    if replies.empty:
        return Finding("DSTP fig. 1", claim, model, None, "no reply has a decode step")
    return Finding(
        "DSTP fig. 1", claim, model, bool(replies.overlap.mean() < 0.5),
        f"{100 * replies.overlap.mean():.0f} % of the top {replies.k.max():.0f} tokens of a step are in the prefill's, "
        f"by chance {100 * (replies.k / replies.visual_tokens).mean():.0f} % ({len(replies)} replies)",
    )  # fmt: skip


def _needed(model: str, read: pd.DataFrame) -> Finding:
    """Of the regions that are read after the prefill."""
    shares = 100 * read.astype({"hit": float, "hit_prefill": float}).groupby("nth")[["hit", "hit_prefill"]].mean()
    now, then = shares.hit[1], shares.hit_prefill[1]
    again = (
        f"; {shares.hit[2]:.0f} % where it writes a second thing read off the same cell" if 2 in shares.index else ""
    )
    return Finding(
        "DSTP fig. 1", "steps look at the region they need, where the prefill did not look", model,
        bool(now > 50 > then),
        f"needed cell in the top {read.k.max():.0f} tokens at {now:.0f} % of {(read.nth == 1).sum()} steps that write "
        f"the first thing read off it, in the prefill's for {then:.0f} %, by chance "
        f"{100 * (read.k / read.visual_tokens).mean():.0f} %{again}",
    )  # fmt: skip


HEATMAPS = Kind(
    "heatmaps",
    "The longest right reply of each full model: attention to the picture (mean over layers and heads, most attended "
    "tokens; black is a map's highest) at the prefill and at steps that write what they read, needed cells outlined; "
    f"below, similarity to the prefill with RVIS events (below {THRESHOLD}). Last row: all replies (DSTP figure 1).",
    measure, draw, findings,
)  # fmt: skip
