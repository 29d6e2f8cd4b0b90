"""HiPrune: anchors from the middle of the vision tower with their neighbours, the rest from its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from pruners.base import PrunerError
from pruners.budget import Layer, resolve_layer
from pruners.layout import Scope
from pruners.selection import Selection, keep_top
from pruners.signals import Signal, TowerAttention
from pruners.tower import TowerScored
from pruners.views import ModelInfo, View


@dataclass(frozen=True, kw_only=True)
class HiPrune(TowerScored):
    """HiPrune: Hierarchical Attention for Efficient Token Pruning in Vision-Language Models (arXiv 2508.00553).

    Scores are the attention that a token receives from all tower tokens, class token included, mean over heads. Of
    every crop's k = round(keep * n) tokens, round(k * alpha / 5) are anchors, those of highest score in the object
    layer; their neighbours left, right, above and below stay too; the tokens of highest score in the deep layer, whose
    output is projected, fill the budget. Raster order. Text plays no part.

    Stated by the paper: anchors of a middle layer, buffers beside them, registers of a deep layer. Of the official
    code: layer 9 of CLIP's 24 and 16 of Qwen2.5-VL's 32; neighbours of place i are i - 1, i + 1, i - c and i + c with c
    tokens a row, so that they wrap around the sides of the grid, and the first or last token stands for those beyond.
    Inferred: c is that of the crop's grid, also where another method has dropped tokens before; towers with a class
    token take CLIP's depth and others Qwen2.5-VL's; never more than floor(k / 5) anchors. Position ids: see
    `BeforeLLM`.

    Attributes:
        alpha: share of the budget that goes to anchors and neighbours.
        object_layer: tower layer of the anchors, from 0; the default is "8/24" with a class token, else "15/32".
        repaired: neighbours that the grid does not have are left out.
    """

    scope: ClassVar[Scope] = "crop"
    scores: Literal["auto", "cls", "received"] = "received"
    alpha: float = 0.1
    object_layer: Layer | None = None
    repaired: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise PrunerError(f"alpha must lie in [0, 1], got {self.alpha}")

    def resolved(self, model: ModelInfo) -> Self:
        return replace(super().resolved(model), object_layer=self._object(model))

    def _object(self, model: ModelInfo) -> int:
        default = "8/24" if model.has_cls else "15/32"
        return resolve_layer(default if self.object_layer is None else self.object_layer, model.tower_depth)

    def check(self, model: ModelInfo) -> None:
        self._object(model)
        super().check(model)

    def signals(self, model: ModelInfo) -> Sequence[Signal]:
        return self.resolved(model)._signals()

    def _signals(self) -> tuple[TowerAttention, TowerAttention]:
        assert isinstance(self.object_layer, int)
        return replace(self.attention, layer=self.object_layer), self.attention

    def at_embed(self, view: View) -> Selection | None:
        n, k = len(view), self.count(len(view))
        if k >= n:
            return None
        middle, deep = (view[signal] for signal in self._signals())
        anchors = middle.argsort(descending=True, stable=True)[: min(k // 5, round(k * self.alpha / 5))]
        layout, (picture, crop) = view.sample.layout, next(iter(view.crops), (view.picture or 0, 0))
        own = layout.column[(layout.picture == picture) & (layout.crop == crop)]  # on the CPU; padding may be gone
        columns = int(own.max() - own.min()) + 1
        first = torch.cat([anchors, neighbours(anchors, n, columns, self.repaired)])
        return Selection(keep_top(deep.index_fill(0, first, torch.inf), k).source, positions=self.positions)


def neighbours(anchors: Tensor, n: int, columns: int, repaired: bool) -> Tensor:
    """[4a] places around anchors [a] in a grid of n; `repaired`: the anchor's own for those that do not exist."""
    near = torch.cat([anchors - 1, anchors + 1, anchors - columns, anchors + columns])
    if repaired:
        own = anchors.repeat(4)
        straight = (near // columns == own // columns) | (near % columns == own % columns)
        near = torch.where(straight & (near >= 0) & (near < n), near, own)
    return near.clamp(0, n - 1)
