"""VScan: keep what shallow and deep tower layers attend to, merge the rest, and prune again inside the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pruners.base import Moment, PrunerError
from pruners.budget import Layer, resolve_layer
from pruners.layout import Scope
from pruners.pyramiddrop import next_attention
from pruners.selection import Positions, Selection, Weights, keep_top
from pruners.signals import Signal, TowerAttention
from pruners.tower import TowerScored
from pruners.views import ModelInfo, View


@dataclass(frozen=True, kw_only=True)
class VScan(TowerScored):
    """VScan: Rethinking Visual Token Reduction for Efficient Large Vision-Language Models (arXiv 2505.22654).

    Stage 1, before the language model, of T tokens per crop: in each of W windows of 6 x 6 the k = int(T/2) // W tokens
    with the highest class-token attention of a shallow tower layer (index 5 of 24); of the others the T - int(T/2) with
    the highest of the layer whose output is projected. Each token that is left goes to the kept one with the most
    similar projected features (cosine), which becomes the mean of itself and all that came: (x + sum) / (1 + count).
    Stage 2, halfway through the language model: PyramidDrop's ranking (`next_attention`), the highest third goes on.

    Stated by the paper: both stages, layers, merging; 96 then 32 tokens of 576 for a mean of 64, and a sixth then a
    third of it on Qwen2.5-VL. Of the official code: windows, rounding, raster order. Where int(T/2) is no multiple of
    W, fewer than T are kept (98 of 100); `repaired` keeps T, the rest by the deep layer. Its FlashAttention branch,
    which rotates queries and keys twice in stage 2, is not reproduced.

    Towers without class token, and towers that merge: attention received, averaged over merged tokens, windows of 4 x 4
    as on Qwen2.5-VL. Inferred: the shallow layer as a fraction of the tower (on Qwen2.5-VL it is the first with full
    attention, which others lack); smaller windows at the edges of grids that do not divide; and that a crop that has
    lost tokens before, whose windows are no longer full, is treated as if repaired. Position ids: `BeforeLLM`, in both
    stages.

    Budget: `keep` and `tokens` are means over the layers of the language model: stage 1 keeps T = depth / (K + share *
    (depth - K)) times as many, K being the layer of stage 2. From T = N on, stage 2 alone meets them. Inferred: with
    several crops each has its own budget in both stages.

    Attributes:
        shallow: tower layer of the windows' scores; `layer` is the deep one.
        window: side of the windows, in visual tokens; None is 6 where the tower does not merge, else 4.
        drop_at, share: layer of stage 2, and what goes on there; 1 leaves stage 1 alone.
        first, depth: tokens of stage 1 per token of the budget, and layers; `resolved` fills them in.
    """

    scope: ClassVar[Scope] = "crop"
    shallow: Layer = "5/24"
    window: int | None = None
    drop_at: Layer = "16/32"
    share: float = 1 / 3
    repaired: bool = False
    first: float | None = None
    depth: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share <= 1:
            raise PrunerError(f"share must lie in (0, 1], got {self.share}")
        if self.window is not None and self.window < 1:
            raise PrunerError(f"window must be at least 1, got {self.window}")

    def layers(self, depth: int) -> tuple[int, ...]:
        return (resolve_layer(self.drop_at, depth, least=0 if isinstance(self.drop_at, int) else 1),)

    def check(self, model: ModelInfo) -> None:
        super().check(model)
        self.resolved(model)  # the tower has the shallow layer

    def resolved(self, model: ModelInfo) -> Self:
        (start,), share = self.layers(model.depth), self.share
        first = model.depth / (start + share * (model.depth - start)) if self.first is None else self.first
        if self.keep is not None and self.keep * first > 1 and self.first is None:
            first, share = 1 / self.keep, (self.keep * model.depth - start) / (model.depth - start)
        return replace(
            super().resolved(model), shallow=resolve_layer(self.shallow, model.tower_depth + model.feature_layer + 1),
            window=self.window or (6 if model.unit == 1 else 4), drop_at=start, share=share, first=first,
            depth=model.depth,
        )  # fmt: skip

    def signals(self, model: ModelInfo) -> Sequence[Signal]:
        me = self.resolved(model)
        return me.shallow_attention, me.attention

    @property
    def shallow_attention(self) -> TowerAttention:
        """What the windows rank by; exists after `resolved`."""
        return replace(self.attention, layer=int(self.shallow))

    def count(self, n: int) -> int:
        """T of stage 1; the faithful rule may keep fewer."""
        wanted = self.tokens if self.tokens is not None else (self.keep or 1) * n
        return min(n, max(1, round(wanted * (self.first or 1))))

    def flops(self, model: ModelInfo, moment: Moment, n: int, width: int) -> int:
        t = self.count(n)
        return 2 * n * t * width if moment == "embed" and t < n else 0

    def at_embed(self, view: View) -> Selection | None:
        n = len(view)
        t = self.count(n)
        if t >= n:
            return None
        layout, side = view.sample.layout, self.window or 1
        shallow, deep = view[self.shallow_attention].float(), view[self.attention].float()
        grids = [grid for (picture, _), grid in layout.grid.items() if picture == view.picture]
        whole = [(rows, columns) for rows, columns in grids if rows * columns == n]
        sizes = window_sizes(*(whole or grids)[0], side)
        k = t // 2 // len(sizes)
        places = (x.to(view.index.device, non_blocking=True) for x in (layout.row, layout.column))
        row, column = (place[view.token] // side for place in places)
        local = window_rank(row * len(layout) + column, shallow) < k
        order = deep.masked_fill(local, torch.inf).argsort(descending=True, stable=True)
        kept = t if self.repaired or not whole else sum(min(k, size) for size in sizes) + t - t // 2
        return merged(view.features, order[:t], kept, self.positions)

    def at_layer(self, view: View) -> Selection | None:
        n, share, start = len(view), self.share, view.layer or 0
        if self.tokens is not None and self.depth is not None and self.tokens * (self.first or 1) > n + 0.5:
            share = min(1.0, max(share, (self.tokens * self.depth / n - start) / (self.depth - start)))  # T = N
        k = max(1, round(n * share))
        return replace(keep_top(next_attention(view), k), positions=self.positions) if k < len(view) else None


def window_sizes(rows: int, columns: int, side: int) -> list[int]:
    """Tokens of every window of a grid, those at its edges cut off."""
    heights, widths = ([min(side, n - i) for i in range(0, n, side)] for n in (rows, columns))
    return [height * width for height in heights for width in widths]


def window_rank(window: Tensor, scores: Tensor) -> Tensor:
    """[n] how many tokens of the same window [n] have a higher score [n], or an equal one and a lower index."""
    order = scores.argsort(descending=True, stable=True)
    order = order[window[order].argsort(stable=True)]
    grouped, places = window[order], torch.arange(len(order), device=order.device)
    return torch.empty_like(order).index_copy(0, order, places - torch.searchsorted(grouped, grouped))


def merged(features: Tensor, best: Tensor, kept: int, positions: Positions) -> Selection:
    """The first `kept` of the tokens `best` [t] of features [n, D], in raster order, the others averaged into them.

    The product is over all t, fewer of which may be kept, so that what it costs follows from n alone.
    """
    source = best[:kept].sort().values
    unit = normalize(features.float(), dim=1)
    similar = unit @ unit[torch.cat([source, best[kept:]])].T
    rows = torch.arange(kept, device=source.device)
    nearest = similar[:, :kept].argmax(1).index_copy(0, source, rows)
    share = 1 / torch.zeros(kept, device=source.device).index_add(0, nearest, torch.ones_like(unit[:, 0]))
    every = torch.arange(len(features), device=source.device)
    return Selection(source, Weights(nearest, every, share[nearest]), positions)
