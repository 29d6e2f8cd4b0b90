"""VisionZip: keep the tokens that the vision tower attends to, and merge the rest into a few contextual ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pruners.base import Pruner, PrunerError
from pruners.budget import BeforeLLM
from pruners.layout import THUMBNAIL
from pruners.selection import Selection, Weights
from pruners.signals import Signal, TowerAttention, TowerHidden, TowerKeys
from pruners.views import ModelInfo, View


@dataclass(frozen=True, kw_only=True)
class VisionZip(BeforeLLM):
    """VisionZip: Longer is Better but Not Necessary in Vision Language Models (arXiv 2412.04467), training-free.

    Dominant tokens are those with the highest attention in the tower layer whose output is projected. Of the R others,
    every max(1, R // contextual)-th in raster order becomes a contextual token, until there are enough; each token that
    is left goes to the contextual one with the most similar key (cosine of head-mean keys), and the mean of those that
    went there is ADDED to it (official code and golden vectors; the paper's text says "merge").

    On a tower with one class token per crop and no merging (CLIP, LLaVA), as in the official code: scores are the class
    token's attention, summed over heads; merging happens on the tower's output, before the projector; the class token
    is itself the first dominant token and goes to the language model, then the dominant patches in raster order, then
    the contextual tokens. Of k = round(keep * n) tokens, round(k * contextual) are contextual: 54 + 10, 108 + 20 and
    162 + 30 of 576.

    On a tower that merges (Qwen3-VL, InternVL), as in the port of the official Qwen2.5-VL branch: scores are the
    attention received, summed over queries, mean over heads, averaged over the merged tower tokens, as are keys;
    merging happens on the embeddings, a contextual token stays at its own place and keeps its position ids, and the two
    counts are floor(n * share). Inferred: the class token's attention (mean over heads) if such a tower has one
    (InternVL), though this class token is not kept; towers without class token and merging are treated alike.

    Every crop has its own budget, `tokens` of each; one with no more tokens than that is left alone. Where a picture
    of such a tower has several (LLaVA-NeXT), all tokens of the overview come first, then the dominant patches in raster
    order over the whole grid of crops, then the class tokens, then the contextual tokens, as in the official code
    (which has no newlines and keeps padding, see the model's option `assembly`).

    Attributes:
        contextual: share of the budget that goes to contextual tokens.
        tower, scores, layer: which form, whose attention, of which tower layer (counted from the end); the default is
            what the model has.
    """

    contextual: float = 10 / 64
    tower: Literal["auto", "clip", "merged"] = "auto"
    scores: Literal["auto", "cls", "received"] = "auto"
    layer: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.contextual < 1:
            raise PrunerError(f"contextual must lie in [0, 1), got {self.contextual}")

    def resolved(self, model: ModelInfo) -> Pruner:
        return replace(self._on(model), positions=super().resolved(model).positions)  # type: ignore[attr-defined]

    def _on(self, model: ModelInfo) -> VisionZip:
        clip = model.has_cls and model.unit == 1
        return replace(
            self,
            tower=("clip" if clip else "merged") if self.tower == "auto" else self.tower,
            scores=("cls" if model.has_cls else "received") if self.scores == "auto" else self.scores,
            layer=model.feature_layer if self.layer is None else self.layer,
        )

    def check(self, model: ModelInfo) -> None:
        me = self._on(model)
        if not model.has_cls and (me.tower == "clip" or me.scores == "cls"):
            raise PrunerError(f"{model.name}'s vision tower has no class token")
        if model.unit != 1 and me.tower == "clip":
            raise PrunerError(f"{model.name}'s vision tower merges {model.unit} tokens into one")
        super().check(model)

    def signals(self, model: ModelInfo) -> Sequence[Signal]:
        return self._on(model)._signals()

    def _signals(self) -> tuple[Signal, ...]:
        if self.layer is None or "auto" in (self.tower, self.scores):
            raise PrunerError("VisionZip acts only after resolved(model)")
        keys = TowerKeys(self.layer)
        if self.tower == "clip":
            return (
                TowerAttention(self.layer, self._rows, "sum"), keys,
                TowerHidden(self.layer), TowerHidden(self.layer, rows="cls"),
            )  # fmt: skip
        return TowerAttention(self.layer, self._rows, "mean"), keys

    @property
    def _rows(self) -> Literal["cls", "received"]:
        return "cls" if self.scores == "cls" else "received"

    def hands_on_made(self, model: ModelInfo) -> bool:
        return self._on(model).tower == "clip"

    def counts(self, n: int) -> tuple[int, int]:
        """Dominant tokens, the class token included if it is kept, and contextual tokens of n."""
        if self.tower == "merged" and self.keep is not None:
            share = self.keep * n + 1e-9  # a product such as 0.1 * 30 must not fall below its integer
            return max(1, int(share * (1 - self.contextual))), int(share * self.contextual)
        k = self.count(n)
        contextual = min(k - 1, round(k * self.contextual))
        return k - contextual, contextual

    def at_embed(self, view: View) -> Selection | None:
        if all(self.count(len(part)) >= len(part) for part in view.parts):
            return None
        crops = [self._crop(view.part(part)) for part in view.parts]
        made = joined([(part, made) for part, (made, _) in zip(view.parts, crops, strict=True)])
        if self.tower == "merged":
            made = made.ordered(made.source.argsort())
            return Selection(made.source, made.weights, self.positions)
        order = self._order(view, made.source)
        made, features = made.ordered(order), torch.cat([rows for _, rows in crops])[order]
        return Selection(made.source, made.weights, self.positions, size=made.sizes(), features=features)

    def _crop(self, view: View) -> tuple[Merged, Tensor]:
        """The new tokens of one crop, and, where they are made before the projector, their rows [K, D]."""
        n, every = len(view), torch.arange(len(view), device=view.index.device)
        if self.count(n) >= n:
            return Merged(every, Weights(every, every, torch.ones(n, device=every.device))), view.features
        signals = [view[signal] for signal in self._signals()]
        (dominant, contextual), clip = self.counts(n), self.tower == "clip"
        view.charge(2 * (n - dominant - contextual + clip) * contextual * signals[1].shape[-1])
        made = merged(signals[0], signals[1].float().mean(0), dominant - clip, contextual)
        if not clip:
            return made, view.features
        made = made.behind(1)
        rows = made.weights.apply(signals[2], len(made.source))
        rows = torch.cat([signals[3][:1].to(rows), rows[1:]])
        return made, view.project(rows.to(view.hidden.dtype))

    def _order(self, view: View, source: Tensor) -> Tensor:
        """The order of a picture's new tokens, given crop by crop with their sources [K]."""
        layout, ranks = view.sample.layout, list[int]()
        for (picture, crop), part in view.crops.items():
            n, (dominant, contextual) = len(part), self.counts(len(part))
            own = [1] * n if self.count(n) >= n else [2] + [1] * (dominant - 1) + [3] * contextual
            kind = layout.kind[(layout.picture == picture) & (layout.crop == crop)][0]  # on the CPU
            ranks += [0] * len(own) if kind == THUMBNAIL else own
        if len(view.crops) < 2:
            return torch.arange(len(source), device=source.device)
        rank = torch.tensor(ranks).to(source.device, non_blocking=True)
        return (rank * (len(view) + 1) + torch.where(rank == 1, source, 0)).argsort(stable=True)


class Merged(NamedTuple):
    """New tokens, dominant before contextual: `source` [K] old tokens that they continue, `weights` [K, n]."""

    source: Tensor
    weights: Weights

    def behind(self, made: int) -> Merged:
        """The same tokens behind `made` rows that continue no token."""
        source, (rows, cols, values) = self.source, (self.weights.rows, self.weights.cols, self.weights.values)
        return Merged(torch.cat([source.new_full((made,), -1), source]), Weights(rows + made, cols, values))

    def ordered(self, order: Tensor) -> Merged:
        """The same tokens in another order."""
        rows, cols, values = self.weights.rows, self.weights.cols, self.weights.values
        return Merged(self.source[order], Weights(order.argsort()[rows], cols, values))

    def sizes(self) -> Tensor:
        """[K] old tokens in every row, at least 1."""
        counts = self.weights.values.new_zeros(len(self.source))
        return counts.index_add(0, self.weights.rows, torch.ones_like(self.weights.values)).clamp(min=1)


def joined(crops: list[tuple[Tensor, Merged]]) -> Merged:
    """The new tokens of several crops one after the other, given which tokens of the picture each crop has."""
    starts = accumulate((len(made.source) for _, made in crops), initial=0)
    weights = [made.weights for _, made in crops]
    return Merged(
        torch.cat([torch.where(made.source < 0, -1, which[made.source.clamp(min=0)]) for which, made in crops]),
        Weights(
            torch.cat([w.rows + start for w, start in zip(weights, starts, strict=False)]),
            torch.cat([which[made.weights.cols] for which, made in crops]),
            torch.cat([w.values for w in weights]),
        ),
    )


def merged(scores: Tensor, keys: Tensor, dominant: int, contextual: int) -> Merged:
    """VisionZip's rule on scores [n] and keys [n, d], with dominant + contextual <= n; all shapes known beforehand."""
    n, device = len(scores), scores.device
    order = scores.float().argsort(descending=True, stable=True)
    top, rest = order[:dominant].sort().values, order[dominant:].sort().values
    if not contextual:
        return Merged(top, Weights(torch.arange(dominant, device=device), top, torch.ones(dominant, device=device)))
    place, step = torch.arange(len(rest), device=device), max(1, len(rest) // contextual)
    is_target = (place % step == 0) & (place < step * contextual)
    others, target = rest[is_target.int().argsort(stable=True)].split([n - dominant - contextual, contextual])
    nearest = similarities(keys[others], keys[target]).argmax(1)
    ones = torch.ones(n, device=device)
    share = 1 / torch.zeros(contextual, device=device).index_add(0, nearest, ones[: len(others)])
    kept = torch.arange(dominant + contextual, device=device)
    return Merged(
        torch.cat([top, target]),
        Weights(
            torch.cat([kept, dominant + nearest]),
            torch.cat([top, target, others]),
            torch.cat([ones[: len(kept)], share[nearest]]),
        ),
    )


def similarities(a: Tensor, b: Tensor) -> Tensor:
    """Cosines [m, k] of a [m, d] and b [k, d], float32."""
    a, b = (torch.nn.functional.normalize(x.float(), dim=1) for x in (a, b))
    return a @ b.T


def reassemble(tokens: Tensor, kept: Tensor, grid_width: int, grid_height: int, side: int = 24) -> Tensor:
    """LLaVA-NeXT's sequence [crops * k, D] from the tokens of its crops.

    First all tokens of the overview crop, if there is one; then the dominant patches of the grid of crops in raster
    order over the whole picture, without newlines; then the class tokens, then the contextual tokens, crop by crop.

    Args:
        tokens: [crops, k, D], in each crop: class token, dominant patches in raster order, contextual tokens.
        kept: [crops, dominant] dominant tokens in any order, 0 for the class token and 1 + i for patch i.
        grid_width, grid_height: crops across and down; one crop more than these is the overview, which comes first.
        side: patches across and down a crop.
    """
    cells, dominant = grid_width * grid_height, kept.shape[1]
    overviews = len(tokens) - cells
    if overviews not in (0, 1):
        raise ValueError(f"{len(tokens)} crops do not fill a grid of {grid_height} x {grid_width}")
    grid, patch = tokens[overviews:], kept[overviews:].sort(dim=1).values[:, 1:] - 1
    crop = torch.arange(cells, device=tokens.device)[:, None]
    row = crop // grid_width * side + patch // side
    column = crop % grid_width * side + patch % side
    raster = (row * (grid_width * side) + column).flatten().argsort()
    return torch.cat(
        [
            tokens[:overviews].flatten(0, 1),
            grid[:, 1:dominant].flatten(0, 1)[raster],
            grid[:, 0],
            grid[:, dominant:].flatten(0, 1),
        ]
    )
