"""SparseVLM: prune in three steps inside the language model, by the attention of text that speaks of the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from pruners.base import Pruner, PrunerError
from pruners.budget import Budgeted, Layer, resolve_layer
from pruners.selection import Selection, Weights
from pruners.signals import Attention, Signal
from pruners.views import ModelInfo, View

Counts = tuple[int, int, int]
PUBLISHED_TOKENS = 576
EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class Rated(Budgeted):
    """What SparseVLM and SparseVLM+ share: raters and schedule.

    Raters are chosen once, on the input embeddings: text tokens t after the last picture whose mean over all visual
    tokens v of softmax_t(v . t), unscaled, lies above the mean of the text (if none does, all are raters; inferred).
    Attention inside layer K - 1, rater rows and visual columns, decides what enters layer K.

    The budget is a name: 192, 128, 96 and 64 of 576 stand for the published counts after each step. Those of other
    budgets are interpolated linearly between these, (0, 0, 0) and (576, 576, 576), and scaled to other numbers of
    tokens (inferred). The official counter starts a layer early, so the mean over layers lies above the budget; what
    was kept is recorded.

    Attributes:
        drop_at: the layers K; removal follows layers 2, 6 and 15 of 32 in the official code. Fractions are pushed
            apart in shallow models; below four layers the first steps are left out.
        counts: visual tokens, made ones apart, after each of three steps, in place of the budget's.
    """

    published: ClassVar[Mapping[int, Counts]] = {}
    drop_at: tuple[Layer, ...] = ("3/32", "7/32", "16/32")
    counts: Counts | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "drop_at", tuple(self.drop_at))
        if not 1 <= len(self.drop_at) <= 3:
            raise PrunerError(f"drop_at takes one to three layers, got {self.drop_at}")

    def resolved(self, model: ModelInfo) -> Pruner:
        return replace(self, drop_at=self.layers(model.depth))

    def layers(self, depth: int) -> tuple[int, ...]:
        found = [0]
        for layer in self.drop_at:
            found.append(resolve_layer(layer, depth, least=found[-1] + 1))
        return tuple(dict.fromkeys(found[1:]))

    def schedule(self, n: int) -> Counts:
        """Visual tokens, made ones apart, of n after each of the three steps."""
        if self.counts is not None:
            return self.counts
        budget = PUBLISHED_TOKENS * (self.tokens / n if self.tokens is not None else self.keep or 1.0)
        known = {0: (0, 0, 0), **self.published, PUBLISHED_TOKENS: (PUBLISHED_TOKENS,) * 3}
        low = max(b for b in known if b <= budget)
        high = min((b for b in known if b > budget), default=low)
        share = (budget - low) / (high - low) if high > low else 0.0
        a, b, c = (
            min(n, max(1, round((x + share * (y - x)) * n / PUBLISHED_TOKENS)))
            for x, y in zip(known[low], known[high], strict=True)
        )
        return a, b, c

    def at_layer(self, view: View) -> Selection | None:
        if view.layer not in self.drop_at:
            raise PrunerError(f"{type(self).__name__} acts only after resolved(model)")
        first = view.state.setdefault(f"tokens {view.picture}", torch.tensor(len(view), device="cpu"))
        if not view.sample.text_after or len(view) < 2:
            return None
        if self.counts is None and self.count(int(first)) >= int(first):
            return None
        if "raters" not in view.state:  # all pictures share them
            sample = view.sample
            visual, text = sample.embeds[sample.visual], sample.embeds[sample.length - sample.text_after :]
            view.charge(2 * len(visual) * text.numel())
            view.state["raters"] = raters(visual, text)
        step = self.drop_at.index(view.layer) - len(self.drop_at)
        return self.select(view, min(self.schedule(int(first))[step], len(view) - 1))

    def select(self, view: View, k: int) -> Selection:
        """Keep k of the view's tokens, less than all."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class SparseVLM(Rated):
    """SparseVLM: Visual Token Sparsification for Efficient VLM Inference (arXiv 2410.04417), version 1 of its code.

    See `Rated`. Scores are the attention after softmax, mean over heads and raters; the k of the schedule with the
    highest stay. Of the P others the int(0.3 P) + 1 best are recycled: DPC-KNN makes c = int(that / 10) + 1 clusters of
    them (see `clusters`), each of which becomes one more token, sum(x) / (number + 1e-6), between the kept tokens and
    the text. So 192 leaves 309, 204 and 113 tokens.

    Stated by the paper: raters, scores, recycling. Of the official code: the published counts in place of the paper's
    adaptive one, which it does not have, and the constants. Ids are renumbered on models with one position axis, as
    there; decoding counts on from each layer's own cache. Inferred: M-RoPE ids stay, a cluster takes those of its
    centre; with several pictures each has its own schedule, and raters look at all of them.

    Attributes:
        noise: add 1e-6 * uniform random numbers to the densities, as the official code does without a seed; it changes
            the clusters of some inputs.
        seed: of the noise.
    """

    makes: ClassVar[bool] = True
    published: ClassVar[Mapping[int, Counts]] = {
        64: (66, 30, 17), 96: (238, 48, 26), 128: (303, 110, 36), 192: (300, 200, 110),
    }  # fmt: skip
    positions: Literal["auto", "keep", "renumber"] = "auto"
    noise: bool = False
    seed: int = 0

    def resolved(self, model: ModelInfo) -> Pruner:
        positions = ("keep" if model.axes > 1 else "renumber") if self.positions == "auto" else self.positions
        return replace(self, drop_at=self.layers(model.depth), positions=positions)

    def signals(self, model: ModelInfo) -> Sequence[Signal]:
        return tuple(_attention(layer) for layer in self.layers(model.depth))

    def select(self, view: View, k: int) -> Selection:
        raters = view.state["raters"]
        scores = (raters[:, None] * view[_attention(view.layer or 0)].float()).sum(0)
        order = scores.argsort(descending=True, stable=True)
        kept, best = order[:k].sort().values, order[k : k + recycled(len(view) - k)]
        noise = torch.rand(len(best), generator=view.sample.generator(self.seed)) if self.noise else None
        view.charge(2 * len(best) ** 2 * view.hidden.shape[1])
        centers, label = clusters(view.features[best], len(best) // 10 + 1, noise)
        members = scores.new_zeros(len(centers)).index_add(0, label, scores.new_ones(len(best)))
        weights = Weights(
            torch.cat([torch.arange(k, device=order.device), k + label]),
            torch.cat([kept, best]),
            torch.cat([scores.new_ones(k), (1 / (members + EPSILON))[label]]),
        )
        source = torch.cat([kept, centers.new_full(centers.shape, -1)])
        if self.positions != "keep":
            return Selection(source, weights, self.positions)
        own = torch.cat([kept, best[centers]])
        return Selection(source, weights, view.positions[:, view.index[own]])


def _attention(layer: int) -> Attention:
    """Text rows of the layer before, raters or not: how many raters there are is known on the device alone."""
    return Attention(layer - 1, rows="text", head="mean", row="none")


def raters(visual: Tensor, text: Tensor) -> Tensor:
    """[T] float32, 1 where a text token is a rater, from embeddings visual [N, D] and text [T, D], T > 0."""
    weight = (visual.float() @ text.float().T).softmax(1).mean(0)
    chosen = weight > weight.mean()
    return (chosen | ~chosen.any()).float()


def recycled(pruned: int) -> int:
    """How many of the pruned tokens are merged instead of dropped."""
    return int(0.3 * pruned) + 1


class Clusters(NamedTuple):
    """Centres [c] and the cluster [m] of every point, both numbered from the most central centre on."""

    centers: Tensor
    label: Tensor


def clusters(x: Tensor, count: int, noise: Tensor | None = None) -> Clusters:
    """DPC-KNN on points x [m, D], count <= m, float32.

    With distances |x_i - x_j| / sqrt(D): the density of a point is exp(-mean squared distance to its `count` nearest,
    itself included), plus noise [m] * 1e-6; its isolation is the distance to the nearest denser point, the largest
    distance of all for the densest. Centres have the highest product of both; every other point joins the nearest.
    Two centres are always each other's nearest point and tie; torch.topk, as in the official code, orders them. Other
    ties go to the lower index.
    """
    x = x.float() - x.float().mean(0)  # distances come from products, which lose digits far from the origin
    product = x @ x.T
    square = product.diagonal()[:, None] + product.diagonal() - 2 * product
    square = torch.minimum(square, square.T).clamp(min=0).fill_diagonal_(0)  # but for rounding this changes nothing
    distance = (square / x.shape[1]).sqrt()
    density = (-distance.topk(count, dim=1, largest=False).values.square().mean(1)).exp()
    if noise is not None:
        density = density + EPSILON * noise.to(density)
    isolation = torch.where(density > density[:, None], distance, distance.max()).amin(1)
    central = density * isolation
    centers = central.topk(2).indices if count == 2 else central.argsort(descending=True, stable=True)[:count]
    nearest = distance[centers].argmin(0)
    return Clusters(centers, nearest.scatter(0, centers, torch.arange(count, device=x.device)))
