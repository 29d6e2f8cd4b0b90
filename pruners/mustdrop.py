"""MustDrop: tokens leave inside the vision tower, inside the language model, and from the cache after prefill."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from pruners.base import Moment, Pruner, PrunerError
from pruners.budget import Layer, resolve_layer
from pruners.local_merge import merge_windows
from pruners.selection import Selection, keep_top
from pruners.signals import Attention, Signal, TowerAttention
from pruners.views import CacheEdit, CacheView, ModelInfo, Sample, State, View

PUBLISHED_TOKENS = 576
PUBLISHED = {192: (0.001, 0.001), 128: (0.0012, 0.001), 64: (0.011, 0.01)}
"""Thresholds (global, individual) of the budgets that the official code has."""
TEXT = -2
"""What `CacheView.column` holds for text."""


@dataclass(frozen=True, kw_only=True)
class MustDrop(Pruner):
    """Multi-Stage Vision Token Dropping: Towards Efficient Multimodal Large Language Model (arXiv 2411.10803).

    1. After tower layer 0, windows of 3 x 3 tokens whose mean pairwise cosine is 0.8 or more become their mean. The
       order from here on: merged windows by decreasing similarity, then the other tokens (`merge_windows`).
    2. The key set of a crop of n tokens, the ceil(0.08 n) with the highest attention of the class token in the tower's
       last layer (mean over heads), is exempt from what follows.
    3. At the entrance of layer K, with a_tj the attention of text token t after the last picture to token j of a
       picture inside layer K - 1 (mean over heads), every j leaves that has

           sum_t a_tj < g * sum_tj a_tj   and   max_t a_tj < i

    4. After prefill, tokens that did not last through all stages leave every cache but those of the layers before
       layer K - 1 of the first K.

    How many tokens leave depends on values: the device is read once per crop, and once per picture and stage.

    Stated by the paper: the four parts. Of the official code: everything else; g and i by budget. It counts tokens of
    all crops of a picture together in 3, and merges as many windows in each crop of a batch as in the one that merges
    fewest, where here each crop goes by itself. Its windows fill the grid; here those that do not fit stay as they are.
    Inferred: every picture by itself; attention received where there is no class token; towers that merge patches
    merge windows of units, under the place of the middle one, at which LLaVA-NeXT's rows take it up. Without text after
    the picture all tokens stay in 3.

    Position ids: the official code renumbers after every stage, and decoding counts on from each layer's own cache,
    shortened or not, whose keys keep the ids that they had. Under M-RoPE ids stay (inferred).

    Attributes:
        keep, tokens: names of the thresholds: 1/3, 2/9 and 1/9, or 192, 128 and 64, for 576 tokens. Of other budgets
            nothing is known, and they are refused. What was kept is recorded.
        thresholds: (g, i) in place of a budget's; 192's if nothing is given. (0, 0) drops nothing in 3 and 4.
        drop_at: the layers K; attention is that of layers 2, 6, 10 and 14 of 32. Fractions are pushed apart in shallow
            models.
        merge: least cosine in 1; None leaves that part out.
        window: tokens per side of a window.
        key_share: share of the key set; 0 leaves it out.
        scores: whose attention ranks the key set; the default is what the model has.
        cut_cache: part 4.
    """

    keep: float | None = None
    tokens: int | None = None
    thresholds: tuple[float, float] | None = None
    drop_at: tuple[Layer, ...] = ("3/32", "7/32", "11/32", "15/32")
    merge: float | None = 0.8
    window: int = 3
    key_share: float = 0.08
    scores: Literal["auto", "cls", "received"] = "auto"
    cut_cache: bool = True
    positions: Literal["auto", "keep", "renumber"] = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "drop_at", tuple(self.drop_at))
        if sum(value is not None for value in (self.keep, self.tokens, self.thresholds)) > 1:
            raise PrunerError("give one of keep=, tokens= and thresholds=")
        if self.thresholds is not None and (len(self.thresholds) != 2 or not all(t >= 0 for t in self.thresholds)):
            raise PrunerError(f"thresholds= are two, global and individual, at least 0, got {list(self.thresholds)}")
        if self.merge is not None and not -1 <= self.merge <= 1:
            raise PrunerError(f"merge= is a cosine or null, got {self.merge}")
        if not self.drop_at or self.window < 2 or not 0 <= self.key_share <= 1:
            raise PrunerError(
                f"needs a layer in drop_at, window >= 2 and key_share in [0, 1], got {list(self.drop_at)}, "
                f"{self.window} and {self.key_share}"
            )

    @property
    def limits(self) -> tuple[float, float]:
        """(g, i). Raises PrunerError for a budget without published thresholds."""
        if self.thresholds is not None:
            return self.thresholds
        wanted = PUBLISHED_TOKENS * self.keep if self.keep is not None else self.tokens or 192
        for tokens, limits in PUBLISHED.items():
            if abs(wanted - tokens) < 1:
                return limits
        raise PrunerError(
            "MustDrop has thresholds for keep=1/3, 2/9, 1/9 or tokens=192, 128, 64; for others give pruner.thresholds="
        )

    def resolved(self, model: ModelInfo) -> MustDrop:
        scores: Literal["cls", "received"] = "cls" if model.has_cls else "received"
        positions: Literal["keep", "renumber"] = "keep" if model.axes > 1 else "renumber"
        return replace(
            self,
            drop_at=self.layers(model.depth),
            scores=scores if self.scores == "auto" else self.scores,
            positions=positions if self.positions == "auto" else self.positions,
        )

    def check(self, model: ModelInfo) -> None:
        _ = self.limits
        if self.scores == "cls" and not model.has_cls:
            raise PrunerError(f"{model.name}'s vision tower has no class token")
        super().check(model)

    def moments(self) -> tuple[Moment, ...]:
        off = {"encoder": self.merge is None, "cache": not self.cut_cache}
        return tuple(moment for moment in super().moments() if not off.get(moment))

    def tower_layers(self, depth: int) -> tuple[int, ...]:
        return () if self.merge is None else (0,)

    def layers(self, depth: int) -> tuple[int, ...]:
        found = [0]
        for layer in self.drop_at:
            found.append(resolve_layer(layer, depth, least=found[-1] + 1))
        return tuple(dict.fromkeys(found[1:]))

    def signals(self, model: ModelInfo) -> Sequence[Signal]:
        text = tuple(_attention(layer) for layer in self.layers(model.depth))
        return (self.resolved(model).seen, *text) if self.key_share else text

    @property
    def seen(self) -> TowerAttention:
        """The signal of the key set; exists after `resolved`."""
        if self.scores == "auto":
            raise PrunerError("MustDrop acts only after resolved(model)")
        return TowerAttention(-1, self.scores, "mean")

    def start(self, sample: Sample) -> State:
        """`key` [N]: is a token in the key set; `left`: columns that stay in all caches, visual ones added later."""
        device = sample.embeds.device
        return {
            "key": torch.zeros(len(sample.layout), dtype=torch.bool, device=device),
            "left": torch.tensor([TEXT], device=device),
        }

    def at_encoder(self, view: View) -> Selection | None:
        if self.merge is None:
            return None
        layout, token = view.sample.layout, view.token
        grids = [grid for (picture, _), grid in layout.grid.items() if picture == view.picture]
        row, column = (place.to(token.device, non_blocking=True)[token] for place in (layout.row, layout.column))
        bound = max(rows for rows, _ in grids), max(columns for _, columns in grids)
        return merge_windows(view.features, row, column, bound, self.window, self.merge)

    def at_embed(self, view: View) -> Selection:
        if self.key_share:
            scores = view[self.seen]
            top = [part[keep_top(scores[part], math.ceil(self.key_share * len(part))).source] for part in view.parts]
            view.state["key"] = view.state["key"].index_fill(0, view.token[torch.cat(top)], True)
        return Selection(torch.arange(len(view), device=view.index.device), positions=self.positions)

    def at_layer(self, view: View) -> Selection | None:
        kept = torch.arange(len(view), device=view.index.device)
        if view.sample.text_after and not kept.is_meta:
            attention, own = view[_attention(view.layer or 0)], view.token >= 0
            stays = attended(attention, *self.limits) | (own & view.state["key"][view.token])
            kept = torch.nonzero(stays).flatten()
        if view.layer == self.drop_at[-1]:
            view.state["left"] = torch.cat([view.state["left"], view.column[kept]])
        return Selection(kept, positions=self.positions) if len(kept) < len(view) else None

    def at_cache(self, view: CacheView) -> CacheEdit | None:
        last, text = self.drop_at[-1], view.sample.length - len(view.sample.layout)
        left = view.state["left"].sort().values
        count = text + len(left) - 1
        if not int(self.drop_at[0]) - 1 <= view.layer < int(last) or count >= len(view.column):
            return None
        stays = left[torch.searchsorted(left, view.column).clamp(max=len(left) - 1)] == view.column
        source = (~stays).int().argsort(stable=True)[:count].sort().values
        return CacheEdit(
            source.expand(len(view.keys), -1), next_position=count if self.positions == "renumber" else None
        )


def _attention(layer: int) -> Attention:
    """Of every text row to the tokens that are about to enter `layer`."""
    return Attention(layer - 1, rows="text", head="mean", row="none")


def attended(attention: Tensor, total: float, single: float) -> Tensor:
    """[n] tokens that get a share `total` of all attention [T, n] (T > 0), or `single` of one text token's."""
    received = attention.float().sum(0)
    return (received >= total * received.sum()) | (attention.float().amax(0) >= single)
