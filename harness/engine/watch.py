"""What `record=attention` keeps of the attention of a reply: a few numbers per step and layer, no whole maps."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isnan
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, pad

from harness.engine.segment import TEXT
from pruners.layout import VisualLayout

if TYPE_CHECKING:
    from harness.engine.prefill import Prefilled

DELTAS = (0.0005, 0.001, 0.0015, 0.002)
"""Attention above which a visual token counts as active (the four thresholds of VisionPulse's code)."""
TEMPERATURES = (0.4, 0.1)
"""Of VisionPulse's budget in its two presets."""
MEASURES = ("similarity", "mass", *(f"budget_{t}" for t in TEMPERATURES), *(f"active_{d}" for d in DELTAS))
"""What is known of every step and layer:

* similarity: cosine to the attention of the last prompt token, both over visual tokens alone (DSTP Eq. 1 and 5).
* mass: attention that visual tokens get of that over all keys, mean over heads.
* budget_T: the same at temperature T, of the head that looks most (VisionPulse).
* active_D: visual tokens whose attention (mean over heads) exceeds D.
"""
TOP = 16


@dataclass
class Followed:
    """What has been seen of one sample: per step its measures [L, M] and its most attended visual tokens."""

    layout: VisualLayout
    needed: list[list[int]]
    steps: list[Tensor] = field(default_factory=list)
    top: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    shown: list[tuple[int, list[int]]] = field(default_factory=list)

    def record(self, ever: Tensor) -> dict[str, Any]:
        """As plain data, given the visual tokens [L, deltas] that were active at any step.

        `steps[t][layer]` holds the `measures` in their order, t = 0 being the last prompt token, whose query wrote the
        first token of the reply. `top[t]`: the most attended visual tokens (mean over layers and heads) and their
        attention. `shown`: [step, visual tokens that the last layer can read], a new entry where these change. `boxes`:
        where each visual token lies (picture; top, left, bottom, right in fractions of it, None for a newline).
        `needed`: the visual tokens of the regions that the answer needs, in the order of use.
        """
        places = zip(self.layout.picture.tolist(), self.layout.boxes.tolist(), strict=True)
        return {
            "visual_tokens": len(self.layout), "measures": list(MEASURES), "deltas": list(DELTAS),
            "needed": self.needed,
            "steps": _rounded(torch.stack(self.steps)), "ever": ever.tolist(),
            "top": [[found.tolist(), _rounded(weight)] for found, weight in self.top],
            "shown": self.shown,
            "boxes": [None if isnan(box[0]) else [number, *(round(x, 5) for x in box)] for number, box in places],
        }  # fmt: skip


class Watch:
    """Follows the samples in all slots.

    anchor: [S, L, W] attention of the last prompt token over visual tokens alone. ever: [S, L, deltas, W] visual tokens
    that have been active.
    """

    def __init__(self, depth: int, rows: int, device: torch.device) -> None:
        self.slots: list[Followed | None] = [None] * rows
        self.anchor = torch.zeros(rows, depth, 0, device=device)
        self.ever = torch.zeros(rows, depth, len(DELTAS), 0, dtype=torch.bool, device=device)
        self._begin()

    def _begin(self) -> None:
        self.measures: list[Tensor] = []
        self.attention = self.anchor.new_zeros(len(self.anchor), self.anchor.shape[-1])
        self.readable = self.attention.bool()

    def admit(self, slot: int, done: Prefilled) -> None:
        """Follow a new sample, beginning with what its last prompt token looked at in prefill."""
        sample, more = done.segment.sample, max(0, done.segment.width - self.anchor.shape[-1])
        self.anchor, self.ever = pad(self.anchor, (0, more)), pad(self.ever, (0, more))
        self.anchor[slot], self.ever[slot] = 0, False
        needed = [torch.nonzero(shown).flatten().tolist() for shown in sample.layout.shows(sample.needed)]
        self.slots[slot] = Followed(sample.layout, needed)
        self._begin()
        for layer, (logits, column) in enumerate(done.last):
            self.anchor[slot, layer] = _spread(logits[None], column[None, None], self.anchor.shape[-1])[1][0]
            self.look(logits[None], column[None, None], slice(slot, slot + 1))
        self.end([slot], slot)

    def look(self, logits: Tensor, column: Tensor, rows: slice = slice(None)) -> None:
        """The next layer's logits [S, H, n] of the new tokens of these rows, -inf where nothing is read, and the
        columns [S, 1 or Hkv, n] of the entries."""
        layer, width = len(self.measures), self.anchor.shape[-1]
        attention, own, readable = _spread(logits, column, width)
        visual = (column != TEXT).repeat_interleave(logits.shape[1] // column.shape[1], 1)
        mass = (logits.softmax(-1) * visual).sum(-1).mean(1)
        seen = logits.masked_fill(~visual, -torch.inf)
        budgets = [((seen / t).logsumexp(-1) - (logits / t).logsumexp(-1)).exp().amax(1) for t in TEMPERATURES]
        active = torch.stack([attention > delta for delta in DELTAS], dim=1)
        self.ever[rows, layer] |= active
        similarity = cosine_similarity(self.anchor[rows, layer], own, dim=1)
        self.measures.append(torch.stack([similarity, mass, *budgets, *active.sum(-1).float().unbind(1)], dim=1))
        self.attention[rows] += attention
        self.readable[rows] = readable > 0

    def end(self, live: list[int], first: int = 0) -> None:
        """Write down for the live slots what was seen since the last call; row 0 is that of slot `first`."""
        measures, attention = torch.stack(self.measures, dim=1).cpu(), self.attention / len(self.measures)
        readable = self.readable.cpu()
        weight, found = (x.cpu() for x in attention.topk(min(TOP, attention.shape[-1]), dim=-1))
        for slot in live:
            if followed := self.slots[slot]:
                followed.steps.append(measures[slot - first])
                followed.top.append((found[slot], weight[slot]))
                columns = torch.nonzero(readable[slot]).flatten().tolist()
                if not followed.shown or followed.shown[-1][1] != columns:
                    followed.shown.append((len(followed.steps) - 1, columns))
        self._begin()

    def release(self, slot: int) -> dict[str, Any]:
        """What was seen of the sample of a slot."""
        followed, self.slots[slot] = self.slots[slot], None
        return followed.record(self.ever[slot].sum(-1)) if followed else {}


def _spread(logits: Tensor, column: Tensor, width: int) -> Tensor:
    """[3, S, width] for each visual token its attention over all keys, that over visual tokens alone, and whether it
    can be read; means over heads. `logits` [S, H, n], `column` [S, 1 or Hkv, n]."""
    column = column.repeat_interleave(logits.shape[1] // column.shape[1], 1)
    visual = column >= 0
    to, empty = torch.where(visual, column, width), logits.new_zeros(*logits.shape[:2], width + 1)
    alone = logits.masked_fill(~visual, -torch.inf).softmax(-1).nan_to_num()
    parts = (logits.softmax(-1), alone, (~logits.isinf()).float())
    return torch.stack([empty.scatter_add(2, to, x)[..., :width].mean(1) for x in parts])


def _rounded(values: Tensor) -> Any:
    """Nested lists, five digits after the point."""
    return values.double().round(decimals=5).tolist()
