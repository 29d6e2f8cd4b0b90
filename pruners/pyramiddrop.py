"""PyramidDrop: drop visual tokens stage by stage, by the attention that the next layer would pay to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

from torch import Tensor

from pruners.selection import Selection, keep_top
from pruners.staged import Staged
from pruners.views import ModelInfo, View


@dataclass(frozen=True, kw_only=True)
class PyramidDrop(Staged):
    """PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy Reduction
    (arXiv 2410.17247), at inference.

    At the entrance of layer K, queries and keys of layer K are made of the hidden states, with its own norms; a token's
    score is mean_h softmax_j(q_h k_hj / sqrt(d)), q of the last prompt token, over the whole row j. The k highest of
    each picture go on: after 8, 16 and 24 of 32 layers int(N/2), int(N/4) and int(N/8) of the N that entered. Nothing
    is merged.

    Stated by the paper: stages of equal length, a ratio per stage (0.5 by default), the last instruction token as the
    query. Of the official code: everything else. It takes one picture per sample; here each has its own count. Its
    lack of repeated keys, which fails on grouped queries, is no part of the rule and not reproduced.

    Position ids: renumbered 0, 1, 2, ... after each stage, and the reply counts on from there layer by layer (official
    code, LLaVA); under M-RoPE they stay, as in VScan's port of this rule (`positions`).

    Budget: `keep` or `tokens` as in `Staged`, with a geometric schedule r, r^2, ... after 2, 8, 16 and 24 of 32 layers.
    Papers print 192, 128 and 64 tokens as means over the layers and no schedule for them; stages at 8, 16 and 24 alone
    cannot go below 144. Inferred, therefore; r = 0.581, 0.437 and 0.196 are also what a third-party port is set to.

    The row of attention itself, one product of 2 l H d, is not charged: a 2D-th of the queries and keys, which are.

    Attributes:
        ratios: shares of the N tokens that are left from each stage on.
    """

    SCHEDULE = ("8/32", "16/32", "24/32"), (0.5, 0.25, 0.125)
    BUDGET_LAYERS = "2/32", "8/32", "16/32", "24/32"

    positions: Literal["auto", "keep", "renumber"] = "auto"

    def resolved(self, model: ModelInfo) -> Self:
        auto: Literal["keep", "renumber"] = "keep" if model.axes > 1 else "renumber"
        return replace(super().resolved(model), positions=auto if self.positions == "auto" else self.positions)

    def shares(self, ratios: Sequence[float]) -> tuple[float, ...]:
        return tuple(ratios)

    def even(self, ratio: float, stages: int) -> tuple[float, ...]:
        return tuple(ratio**stage for stage in range(1, stages + 1))

    def chosen(self, view: View, k: int) -> Selection:
        return replace(keep_top(next_attention(view), k), positions=self.positions)


def next_attention(view: View) -> Tensor:
    """[n] attention that the last prompt token would pay to the view's tokens in layer `view.layer`, over the whole
    sequence as it enters that layer, mean over heads; float32."""
    name = f"row of layer {view.layer}"
    if name not in view.state:  # all pictures of a prompt share it
        q, k = view.qk(view.layer or 0)
        last = q[:, -1].float().unflatten(0, (len(k), -1))[:, :, None]  # [Hkv, G, 1, d]
        logits = (last * k.float()[:, None]).sum(-1) * q.shape[-1] ** -0.5
        view.state[name] = logits.flatten(0, 1).softmax(-1).mean(0)
    return view.state[name][view.index]
