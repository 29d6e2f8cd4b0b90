"""When a reply ends, and what is then known of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor

from harness.accounting.flops import decode_flops, keys_read, prefill_flops, vision_flops
from harness.accounting.kv import entry_bytes
from harness.engine.decode import Done, Extra
from harness.engine.prefill import Prefilled
from harness.engine.trace import Decoding, Finish, Recorded, Trace
from harness.models.base import Model
from pruners.selection import Selection

UNTOLD: dict[str, Any] = {"layer": None, "source": [], "weights": None, "positions": "keep", "inexact": True}
"""Stands for what kept sets cannot tell."""
LOOP = 48
"""A reply cut at its length limit counts as a loop if its last tokens, at least this many, repeat one n-gram."""


@dataclass
class Reply:
    """What is measured while a sample decodes.

    Attributes:
        read: visual keys read per step, summed over layers; only with a step method.
        triggers: steps at which a step method re-selected.
        looked: entries that its monitor read.
    """

    prefill_seconds: float
    decode_seconds: float = 0.0
    read: list[float] = field(default_factory=list)
    triggers: list[int] = field(default_factory=list)
    steps: int = 0
    looked: int = 0

    def count_step(self, seconds: float, done: Done, slot: int) -> None:
        """Add a step of the slot."""
        self.steps += 1
        self.decode_seconds += seconds
        if done.looked:
            self.looked += done.looked[slot]
        if done.read:
            self.read.append(done.read[slot])
        if done.triggered and done.triggered[slot]:
            self.triggers.append(self.steps)


def finished(ids: list[int], model: Model, decoding: Decoding, forced: tuple[int, ...] = ()) -> Finish | None:
    """Why the reply ends with its last token, or None if it goes on."""
    if forced:
        return "stop" if len(ids) == len(forced) else None
    if not decoding.ignore_eos and ids[-1] in model.stop_ids:
        return "stop"
    if decoding.stop and any(stop in model.tokenizer.decode(ids) for stop in decoding.stop):
        return "stop"
    if len(ids) >= decoding.max_new_tokens:
        return "length_loop" if is_loop(ids) else "length"
    return None


def is_loop(ids: list[int]) -> bool:
    """Whether the tail, at least LOOP tokens and three rounds of it, repeats one n-gram."""
    for n in range(1, len(ids) // 3 + 1):
        tail = max(LOOP, 3 * n)
        if tail > len(ids):
            return False
        if ids[-tail:-n] == ids[-tail + n :]:
            return True
    return False


def make_trace(
    model: Model, done: Prefilled, reply: Reply, ids: list[int], finish: Finish, decoding: Decoding, *,
    extra: Extra, allocated: int, record: Recorded | None, unseen: bool = False,
) -> Trace:  # fmt: skip
    """The trace of a finished reply; `unseen`: tokens also left inside the tower or the cache."""
    d, segment, steps = model.dims, done.segment, reply.steps
    prompt = done.prompt
    n = len(prompt.visual) if prompt.whole is None else prompt.whole
    entries, visual = done.entries, done.visual
    thinking = thinking_tokens(model, ids)
    per_step = [r / d.depth for r in reply.read] or [sum(visual) / d.depth] * steps
    seen = round(sum(reply.read)) if reply.read else steps * sum(visual)
    read = keys_read([e - v for e, v in zip(entries, visual, strict=True)], steps) + seen
    resident = sum(visual) + extra.entries
    return Trace(
        id=done.request.id, repeat=done.request.repeat, token_ids=ids, text=reply_text(model, ids, decoding),
        finish=finish, thinking_tokens=thinking, answer_tokens=len(ids) - thinking,
        text_tokens=len(prompt.ids) - len(prompt.visual), visual_tokens=n, visual_per_layer=segment.visual_per_layer,
        visible_per_step=[(value, len(list(run))) for value, run in groupby(per_step)], triggers=reply.triggers,
        ret_prefill=sum(segment.visual_per_layer) / (d.depth * n) if n else None,
        ret_decode=(sum(per_step) / steps if steps else sum(visual) / d.depth) / n if n else None,
        kv=resident / (d.depth * n) if n else None,
        flops={
            "vision": sum(vision_flops(d, layers) for layers in done.tower_tokens),
            "prefill": prefill_flops(d, segment.lengths),
            "decode": decode_flops(d, steps, read),
            "overhead": segment.overhead + extra.monitor + extra.recall,
        },
        overhead={"selection": segment.overhead, "monitor": extra.monitor, "recall": extra.recall},
        kv_bytes={
            "visible": round(read / steps * entry_bytes(d)) if steps else sum(entries) * entry_bytes(d),
            "resident": (sum(entries) + extra.entries + d.depth * steps) * entry_bytes(d),
            "allocated": allocated,
        },
        prefill_seconds=reply.prefill_seconds, decode_seconds=reply.decode_seconds,
        peak_memory=torch.cuda.max_memory_allocated(model.device) if model.device.type == "cuda" else None,
        kept=[exported(entry) for entry in segment.kept] + [UNTOLD] * unseen if record == "kept" else [],
    )  # fmt: skip


def thinking_tokens(model: Model, ids: list[int]) -> int:
    """Tokens up to and with the last `</think>`; 0 for a reply without one."""
    close = end_of_thinking(model.tokenizer)
    return len(ids) - ids[::-1].index(close) if close is not None and close in ids else 0


@cache
def end_of_thinking(tokenizer: Any) -> int | None:
    """The token that ends thinking, if there is one."""
    token: int | None = tokenizer.get_vocab().get("</think>")
    return token


def reply_text(model: Model, ids: list[int], decoding: Decoding) -> str:
    """The reply without its stop token, and up to the first stop string."""
    end = -1 if ids and ids[-1] in model.stop_ids and not decoding.ignore_eos else None
    text: str = model.tokenizer.decode(ids[:end], skip_special_tokens=True)
    return text[: min((at for s in decoding.stop if (at := text.find(s)) >= 0), default=len(text))]


def exported(entry: dict[str, Any]) -> dict[str, Any]:
    """One moment's kept sets as plain data, over the whole prompt in its order, as `pruners.Replay` reads them."""
    source: list[int] = []
    stands: list[int] = []  # the old token at whose place each new one stands
    weights: tuple[list[int], list[int], list[float]] = ([], [], [])
    merged = False
    for group, selection in entry["chosen"]:
        chosen = Selection(torch.arange(len(group))) if selection is None else selection
        old = group.tolist()
        if chosen.weights is not None:
            merged = True
            rows, cols, values = (x.tolist() for x in (chosen.weights.rows, chosen.weights.cols, chosen.weights.values))
        else:
            rows, cols, values = list(range(len(chosen))), chosen.source.tolist(), [1.0] * len(chosen)
        weights[0].extend(row + len(source) for row in rows)
        weights[1].extend(old[col] for col in cols)
        weights[2].extend(values)
        own = [old[s] if s >= 0 else -1 for s in chosen.source.tolist()]
        source += own
        stands += accumulate((max(s, old[0]) for s in own), max)
    order = sorted(range(len(source)), key=stands.__getitem__)  # crops may take turns in the sequence
    rank = {row: place for place, row in enumerate(order)}
    source, weights = [source[row] for row in order], ([rank[row] for row in weights[0]], *weights[1:])
    acted = [selection for _, selection in entry["chosen"] if selection is not None]
    names = {ids for ids in (selection.positions for selection in acted) if isinstance(ids, str)}
    given = [selection.positions for selection in acted if isinstance(selection.positions, Tensor)]
    if len(given) == len(entry["chosen"]):
        positions: Any = torch.cat(given, dim=1)[:, order].tolist()
    else:
        positions = "renumber" if "renumber" in names else min(names, default="keep")
    partial = bool(given) and len(given) < len(entry["chosen"])
    inexact = partial or any(selection.features is not None for selection in acted)
    return {
        "layer": entry["layer"], "source": source, "weights": weights if merged else None,
        "positions": positions, **({"inexact": True} if inexact else {}),
    }  # fmt: skip
