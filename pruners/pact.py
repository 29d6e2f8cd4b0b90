"""PACT: drop what no query asks for, and merge what is left into its density peaks, early in the language model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pruners.base import Pruner, PrunerError
from pruners.budget import Layer, resolve_layer
from pruners.layout import Scope
from pruners.selection import Selection, Weights
from pruners.views import Entries, ModelInfo, View


@dataclass(frozen=True, kw_only=True)
class PACT(Pruner):
    """PACT: Pruning and Clustering-Based Token Reduction for Faster Visual Language Models (arXiv 2504.08966).

    At the entrance of layer K, with its queries q and keys k before RoPE of everything up to the last visual token:

        s_i = |x_i|_2 mean_h softmax_i(mean_j q_hj . k_hi / sqrt(d)),    x hidden states, softmax over all of these i

    The int(important * n) visual tokens with the highest s are candidates. With e = 1 - cosine of keys after RoPE, all
    heads as one vector, the density of a candidate is sum_j exp(-(e_ij / 2)^2) over candidates. From the densest down,
    each that is farther than `cutoff` from every centre so far becomes a centre. Every visual token within recovery *
    cutoff of its nearest centre joins it, dropped ones too; the others are gone. A centre becomes the mean x of its
    cluster, with its own position ids, and the log of the cluster's size is added to the attention that it gets from
    layer K on.

    Stated by the paper: importance without attention scores, density peaks with bounded distances, recovery,
    attention in proportion to size. Of the official code: everything else, for LLaVA-OneVision-7B (K = 4 of 28);
    its script for Qwen2-VL-7B has important = 0.8 and cutoff = 0.1. The code finds centres in rounds, which gives the
    same ones. Distances are in the model's precision there, where densities tie; here in float64, ties to the lower
    index. All pictures of a prompt go together, as there. Inferred: K for other depths, and that ids while decoding
    count on from the full prompt. There were no recorded outputs of the official code to compare with.

    There is no budget: how many clusters there are depends on the picture, and is read from the device. Queries and
    keys are made twice, before and after RoPE, and so charged.

    Attributes:
        layer: K; a fraction gives at least 1.
        important: share of the tokens that are candidates.
        cutoff: largest distance inside a cluster, and smallest between centres.
        recovery: tokens may be so many times `cutoff` from the centre that they join.
    """

    scope: ClassVar[Scope] = "prompt"
    layer: Layer = "4/28"
    important: float = 0.55
    cutoff: float = 0.21
    recovery: float = 1.5

    def __post_init__(self) -> None:
        if not 0 < self.important <= 1:
            raise PrunerError(f"important must lie in (0, 1], got {self.important}")
        if not (self.cutoff >= 0 and self.recovery >= 0):
            raise PrunerError(f"cutoff and recovery must not be negative, got {self.cutoff} and {self.recovery}")

    def layers(self, depth: int) -> tuple[int, ...]:
        return (resolve_layer(self.layer, depth, least=0 if isinstance(self.layer, int) else 1),)

    def resolved(self, model: ModelInfo) -> Self:
        return replace(self, layer=self.layers(model.depth)[0])

    def bias(self, layer: int, positions: Tensor, keys: Entries) -> Tensor | None:
        if isinstance(self.layer, int) and layer < self.layer:
            return None
        return keys.size.float().log()[None]

    def at_layer(self, view: View) -> Selection:
        first = self._candidates(view)
        keys = view.qk(view.layer)[1][:, view.index].transpose(0, 1).flatten(1)
        unit = normalize(keys.double(), dim=1)
        distance = (1 - unit[first] @ unit.T).clamp(min=0)
        distance.scatter_(1, first[:, None], 0)  # to itself, where rounding leaves more than nothing
        view.charge(2 * len(first) * unit.numel())
        centre = centres(distance[:, first], self.cutoff)
        nearest, cluster = distance[centre].min(0)
        joins = nearest <= self.cutoff * self.recovery
        members = torch.zeros(len(centre), device=joins.device).index_add(0, cluster, joins.float())
        size = torch.zeros_like(members).index_add(0, cluster, joins * view.size.float())
        every = torch.arange(len(view), device=joins.device)
        return Selection(first[centre], Weights(cluster, every, joins / members[cluster]), size=size)

    def _candidates(self, view: View) -> Tensor:
        """[m] the tokens of highest importance, in raster order."""
        prefix = len(view.hidden) - view.sample.text_after
        q, k = (x[:, :prefix].float() for x in view.qk(view.layer, turned=False))
        query = q.mean(1).unflatten(0, (len(k), -1))  # [Hkv, G, d]
        logits = query @ k.transpose(1, 2) * q.shape[-1] ** -0.5
        view.charge(2 * query.numel() * prefix)
        scores: Tensor = logits.softmax(-1).mean((0, 1))[view.index] * view.features.float().norm(dim=1)
        m = max(1, int(self.important * len(view) + 1e-9))  # 0.55 * 20 must not fall below 11
        return scores.argsort(descending=True, stable=True)[:m].sort().values


def centres(distance: Tensor, cutoff: float) -> Tensor:
    """[K] ascending: from the densest down, each that is farther than `cutoff` from all before; distances [m, m]."""
    order = torch.exp(-((distance / 2) ** 2)).sum(1).argsort(descending=True, stable=True)
    near = distance[order][:, order] <= cutoff
    free = torch.ones(len(order), dtype=torch.bool, device=order.device)
    for i in range(len(order) - 1):
        free[i + 1 :] &= ~(near[i, i + 1 :] & free[i])
    taken = torch.zeros_like(free).index_copy(0, order, free)
    count = len(order) if taken.is_meta else int(taken.sum())  # without values: as if no two were near
    return (~taken).int().argsort(stable=True)[:count]
