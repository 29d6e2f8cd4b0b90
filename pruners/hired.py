"""HiRED: every crop of a picture gets a budget by what the tower sees in the overview, for its most attended tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pruners.base import PrunerError
from pruners.layout import THUMBNAIL, VisualLayout
from pruners.selection import Selection, keep_top
from pruners.signals import Signal, TowerAttention
from pruners.tower import TowerScored
from pruners.views import ModelInfo, View


@dataclass(frozen=True, kw_only=True)
class HiRED(TowerScored):
    """HiRED: Attention-Guided Token Dropping for Efficient Inference of High-Resolution VLMs (arXiv 2408.10945).

    Of a picture's k = int(keep * n) tokens its overview of m tokens gets min(int(k * alpha), m). The rest goes to the
    other crops: crop c gets int(rest * h_c / sum h), h_c being how many of the overview's int(m * (1 - alpha)) tokens
    with the highest attention in tower layer 0 lie where the crop does. Inside a crop the tokens with the highest
    attention in the layer whose output is projected go on. Both are the class token's attention, summed over heads.
    A picture of one crop keeps its k highest. Text plays no part; tokens that end rows leave.

    Stated by the paper: two steps, an early layer for budgets and a late one for tokens, alpha. Of the official code:
    its value, and counting tokens; a crop lies where its run of the overview's tokens is (the second of four crops in
    the second quarter of the raster, not in the upper right); what rounding down or a full crop leaves over is lost, so
    that fewer than k are kept: 287 of 288. How many is read from the device. At least one token, and ties to the lower
    index, are ours. So are budgets of what reaches the language model: the official code counts padding, and loses the
    tokens that it keeps of it.

    Inferred: InternVL as LLaVA-NeXT; attention received where there is no class token (Qwen-VL, one crop); means over
    merged patches; runs that differ by one token where crops do not divide the overview. Position ids: see `BeforeLLM`.

    Attributes:
        alpha: the overview's share.
        repaired: crops lie where they show the picture; what is left over goes to the highest tokens that are left, of
            whatever crop. Nothing is read from the device then.
    """

    alpha: float = 0.5
    repaired: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise PrunerError(f"alpha must lie in [0, 1], got {self.alpha}")

    @property
    def attention(self) -> TowerAttention:
        return replace(super().attention, head="sum")

    @property
    def first(self) -> TowerAttention:
        """The signal of the budgets, that of layer 0."""
        return replace(self.attention, layer=0)

    def signals(self, model: ModelInfo) -> Sequence[Signal]:
        me = self.resolved(model)
        return (me.attention,) if model.native else (me.attention, me.first)

    def count(self, n: int) -> int:
        return min(n, max(1, self.tokens if self.tokens is not None else int((self.keep or 1.0) * n)))

    def at_embed(self, view: View) -> Selection | None:
        k = self.count(len(view))
        if k >= len(view):
            return None
        scores, layout, picture = view[self.attention].float(), view.sample.layout, view.picture or 0
        crops = sum(number == picture for number, _ in layout.grid)
        overview = layout.crop[(layout.picture == picture) & (layout.kind == THUMBNAIL)][:1].tolist()  # on the CPU
        if crops > 1 and overview:
            lies = lying(layout, picture, overview[0], self.repaired)
            crop, lies = (x.to(scores.device, non_blocking=True)[view.token] for x in (layout.crop, lies))
            chosen = self._chosen(scores, view[self.first], crop, lies, overview[0], crops, k)
            scores = scores.masked_fill(chosen, torch.inf)
            if not (self.repaired or scores.is_meta):  # without values: as if nothing were lost
                k = max(1, int(chosen.sum()))
        return replace(keep_top(scores, k), positions=self.positions)

    def _chosen(
        self, scores: Tensor, first: Tensor, crop: Tensor, lies: Tensor, overview: int, crops: int, k: int
    ) -> Tensor:
        """Which tokens [n] the budgets of the crops pay for, given each token's crop and the crop it `lies` in."""
        number = torch.arange(crops, device=scores.device)[:, None]
        member = crop == number  # [C, n]
        size = member.sum(1)
        full = size[overview].clamp(max=int(k * self.alpha))
        hot = (size[overview].double() * (1 - self.alpha)).floor().clamp(min=1)
        seen = ((lies == number) & (places(first, member[overview]) < hot)).sum(1)
        quota = (seen / seen.sum().clamp(min=1) * torch.minimum(k - full, len(scores) - size[overview])).floor()
        quota = torch.where(number[:, 0] == overview, full, quota)
        return (member & (places(scores, member) < quota[:, None])).any(0)


def places(scores: Tensor, member: Tensor) -> Tensor:
    """[..., n] rank of every token among the members [..., n], by scores [n], ties to the lower index; others last."""
    order = torch.where(member, scores.float(), -torch.inf).argsort(dim=-1, descending=True, stable=True)
    return order.argsort(dim=-1)


def lying(layout: VisualLayout, picture: int, overview: int, exact: bool) -> Tensor:
    """[N] the other crop in which every token of the overview lies: by area, or by runs in raster order; else -1."""
    mine = (layout.picture == picture) & (layout.crop == overview)
    others = torch.tensor([c for p, c in layout.grid if p == picture and c != overview])
    found = torch.full((len(layout),), -1)
    if not exact:
        found[mine] = others[torch.arange(int(mine.sum())) * len(others) // int(mine.sum())]
        return found
    rows, columns = layout.grid[picture, overview]
    down, right = (layout.row + 0.5) / rows, (layout.column + 0.5) / columns
    for crop in others.tolist():
        top, left, bottom, end = layout.area[picture, crop]
        found[mine & (down >= top) & (down < bottom) & (right >= left) & (right < end)] = crop
    return found
