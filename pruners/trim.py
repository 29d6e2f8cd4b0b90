"""TRIM: keep the tokens that CLIP finds least like the question, and average the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from pruners.base import PrunerError
from pruners.clip import ClipGuided, read
from pruners.layout import Scope
from pruners.prumerge import outliers
from pruners.selection import Selection, Weights, keep_top
from pruners.signals import ClipPatches, Signal, TowerHidden
from pruners.tower import check_output
from pruners.views import ModelInfo, View


@dataclass(frozen=True, kw_only=True)
class TRIM(ClipGuided):
    """Less is More: A Simple yet Effective Token Reduction Method for Efficient Multi-modal LLMs (arXiv 2409.10994).

    Scores are softmax over tokens of -<p_i, t>, with the patches p of the tower layer whose output is projected and the
    question t in CLIP's shared space, not normalised. The highest go on in raster order, the mean of all others behind
    them.

    Stated by the paper: the comparison, outliers for an automatic count, the mean. Of the official code: the minus
    sign, which its authors found to work better; everything on the tower's output, before the projector; adaptive=True
    keeps as many tokens as scores exceed Q3 + 1.5 (Q3 - Q1), int(n * share). Ours: the budget counts the mean, so that
    tokens=64 means 64; ties to the lower index. Inferred: of a question of more than 77 tokens the mean over its
    segments. Position ids: see `BeforeLLM`; where they stay, the mean shares those of the last kept token.

    Attributes:
        adaptive: the scores decide how many tokens are kept, and the budget is not used: crop by crop, where the
            official code has one share for the batch. This reads numbers from the device.
    """

    scope: ClassVar[Scope] = "crop"
    adaptive: bool = False

    def signals(self, model: ModelInfo) -> Sequence[Signal]:
        return self.resolved(model)._signals()

    def check(self, model: ModelInfo) -> None:
        super().check(model)
        check_output(model, self.resolved(model)._signals()[1].layer)

    def hands_on_made(self, model: ModelInfo) -> bool:
        return True

    def _signals(self) -> tuple[ClipPatches, TowerHidden]:
        if self.layer is None:
            raise PrunerError("TRIM acts only after resolved(model)")
        return ClipPatches(self.layer), TowerHidden(self.layer)

    def at_embed(self, view: View) -> Selection | None:
        n = len(view)
        if not self.adaptive and self.count(n) >= n:
            return None
        patches, hidden = (view[signal] for signal in self._signals())
        scores = (-(patches.float() @ read(view, view.sample.question).pooled.float().mean(0))).softmax(0)
        k = int(n * outliers(scores)) if self.adaptive else self.count(n) - 1
        kept = keep_top(scores, k).source
        rest = torch.ones_like(scores).scatter(0, kept, 0.0).argsort(descending=True, stable=True)[: n - k]
        row = torch.arange(k + 1, device=kept.device)
        weights = Weights(
            torch.cat([row[:k], row[k:].expand(n - k)]),
            torch.cat([kept, rest]),
            torch.cat([torch.ones_like(scores[:k]), torch.full_like(scores[k:], 1 / (n - k))]),
        )
        source = torch.cat([kept, kept.new_full((1,), -1)])
        rows = weights.apply(hidden, k + 1).to(view.hidden.dtype)
        return Selection(source, weights, self.positions, features=view.project(rows))
