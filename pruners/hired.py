"""HiRED: every crop of a picture gets a budget by what the tower sees in the overview, for its most attended tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    index, are ours. So are budgets of what reaches the language model: the official code counts padding too, and loses
    what it keeps of it.

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
        overview = layout.crop[(layout.picture == picture) & (layout.kind == THUMBNAIL)][:1].tolist()  # on the CPU
        if (picture, *overview) in view.crops and len(view.crops) > 1:
            paid = torch.zeros_like(scores)
            for part, quota in self._quotas(view, picture, overview[0], k):
                paid[part] = (places(scores[part]) < quota).float()
            scores = scores.masked_fill(paid > 0, torch.inf)
            if not (self.repaired or scores.is_meta):  # without values: as if nothing were lost
                k = max(1, int(paid.sum()))
        return replace(keep_top(scores, k), positions=self.positions)

    def _quotas(self, view: View, picture: int, overview: int, k: int) -> Iterator[tuple[Tensor, Tensor | int]]:
        """The tokens of every crop, and how many of them stay."""
        layout, whole = view.sample.layout, view.crops[picture, overview]
        full = min(int(k * self.alpha), len(whole))
        yield whole, full
        others = [crop for number, crop in layout.grid if number == picture and crop != overview]
        lies = lying(layout, picture, overview, others, self.repaired).to(whole.device, non_blocking=True)
        hot = places(view[self.first][whole]) < max(1, int(len(whole) * (1 - self.alpha)))
        number = torch.arange(len(others), device=whole.device)[:, None]
        seen = ((lies[view.token[whole]] == number) & hot).sum(1)
        quota = seen / seen.sum().clamp(min=1) * min(k - full, len(view) - len(whole))
        for crop, rounded in zip(others, quota.floor(), strict=True):
            if (picture, crop) in view.crops:
                yield view.crops[picture, crop], rounded


def places(scores: Tensor, member: Tensor | None = None) -> Tensor:
    """[n] rank of each of scores [n] from 0, the highest first, ties to the lower index.

    Of members [..., n] alone: [..., n], all others behind them.
    """
    scores = scores.float() if member is None else torch.where(member, scores.float(), -torch.inf)
    return scores.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)


def lying(layout: VisualLayout, picture: int, overview: int, others: list[int], exact: bool) -> Tensor:
    """[N] number of the crop, among `others`, in which each token of the overview lies; -1 for all other tokens.

    By the area that crops show if exact, else by runs in raster order. On the CPU.
    """
    mine = (layout.picture == picture) & (layout.crop == overview)
    found = torch.full((len(layout),), -1)
    if not exact:
        found[mine] = torch.arange(int(mine.sum())) * len(others) // int(mine.sum())
        return found
    rows, columns = layout.grid[picture, overview]
    down, right = (layout.row + 0.5) / rows, (layout.column + 0.5) / columns
    for number, crop in enumerate(others):
        top, left, bottom, end = layout.area[picture, crop]
        found[mine & (down >= top) & (down < bottom) & (right >= left) & (right < end)] = number
    return found
