"""V2Drop: drop the visual tokens that the last layer changed least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

from pruners.selection import Selection, keep_top
from pruners.signals import Hidden, Signal
from pruners.staged import Staged
from pruners.views import ModelInfo, View


@dataclass(frozen=True, kw_only=True)
class V2Drop(Staged):
    """Variation-aware Vision Token Dropping for Faster Large Vision-Language Models (arXiv 2509.01552).

    A token's score is its variation |x_l - x_(l-1)|_2, x_l being the hidden state that enters layer l. At layers 3, 17
    and 22 (of 32) the max(1, int(r m)) of m tokens with the highest score go on. No attention is needed. The official
    code has r = 0.5, 0.5 and 0, the last leaving one token.

    Stated by the paper: the score, the layers, and for LLaVA-1.5-7B the shares dropped at "192 tokens" (50, 70,
    100 %), "128" (72, 75, 100 %) and "64" (95, 95, 100 %), whose means over the layers are 194, 131 and 67. Of the
    official code: counts rounded down, at least one token, positions. Its 576 and 35 are constants; here every picture
    has its own count. On Qwen3-VL x_l contains the DeepStack rows that were added before layer l.

    Position ids stay those of the full prompt, for the reply too.

    Budget: on 32 layers a third, 2/9 and 1/9 of N take the paper's ratios; any other is as in `Staged`, with the same r
    in all stages but the last, which leaves one token unless r = 1 keeps too few.

    Attributes:
        ratios: share of the tokens present that each stage keeps.
    """

    SCHEDULE = ("3/32", "17/32", "22/32"), (0.5, 0.5, 0.0)
    BUDGET_LAYERS = SCHEDULE[0]
    EARLIEST = 1

    def signals(self, model: ModelInfo) -> Sequence[Signal]:
        return tuple(Hidden(layer - 1) for layer in self.layers(model.depth))

    def shares(self, ratios: Sequence[float]) -> tuple[float, ...]:
        return tuple(accumulate(ratios, mul))

    def even(self, ratio: float, stages: int) -> tuple[float, ...]:
        return (*[min(1.0, 2 * ratio)] * (stages - 1), max(0.0, 2 * ratio - 1))

    def left(self, n: int, depth: int) -> dict[int, int]:
        ratios = self.budget_ratios(n, depth) if self._budgeted else self._ratios
        counts = accumulate(ratios, lambda m, r: max(1, int(r * m + 1e-9)), initial=n)  # 0.1 * 30 must not fall below 3
        return dict(zip(self.starts(depth), list(counts)[1:], strict=True))

    def budget_ratios(self, n: int, depth: int) -> tuple[float, ...]:
        share = self.keep if self.tokens is None else self.tokens / n
        known = next((ratios for b, ratios in PUBLISHED.items() if abs(576 * (share or 0) - b) < 0.5), None)
        return known if known and self.starts(depth) == (3, 17, 22) and depth == 32 else super().budget_ratios(n, depth)

    def chosen(self, view: View, k: int) -> Selection:
        before = view[Hidden((view.layer or 0) - 1)]
        return keep_top((view.features.float() - before.float()).norm(dim=-1), k)


PUBLISHED = {192.0: (0.5, 0.3, 0.0), 128.0: (0.28, 0.25, 0.0), 64.0: (0.05, 0.05, 0.0)}
"""Ratios on LLaVA-1.5-7B, by the budget of 576 tokens that the paper prints."""
