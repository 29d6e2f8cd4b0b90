"""RESTORE: half of a budget for the tokens of any method, half for merged ones, and the attention that all had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pruners.base import Moment, Pruner, PrunerError
from pruners.budget import Budgeted
from pruners.layout import Scope
from pruners.prumerge import PruMerge
from pruners.selection import Selection, Weights
from pruners.signals import Signal
from pruners.simple import Pool
from pruners.trim import TRIM
from pruners.views import Entries, ModelInfo, Sample, State, View
from pruners.visionzip import VisionZip
from pruners.vscan import VScan

MERGING = (Pool, PruMerge, TRIM, VisionZip, VScan)
FARTHEST = 1 << 16
"""Position ids farther apart than this are treated as this far apart."""


@dataclass(frozen=True, kw_only=True)
class RESTORE(Pruner):
    """RESTORE (Improving Visual Token Reduction via Rectifying Distortions, arXiv 2606.01711, ICML 2026), an add-on to
    methods that select tokens before the language model: DivPrune, HoloV and VisPruner in the paper.

    Of a budget of k tokens the base picks int(k / 2). Among the r others, with s_ij the cosine of projected tokens,

        density_i = sum_j s_ij,    distinct_i = 1 - max s_ij over all j with density_j > density_i  (1 if there is none)

    the k - int(k / 2) highest density * distinct are anchors; every other token joins the anchor it is most similar to,
    and the mean of each group is a token. It takes the place and the position ids of the group's lower median member;
    no id is renumbered. In every layer the logit of query i and key j gets

        log size_j + log(2 - c(i, j)),     c(i, j) = mean over channel pairs of cos(angle between their position ids)

    where size_j counts the members of a group and is 1 for other tokens. In the first layer all visual tokens have the
    size N / k instead. The second term holds for text and visual tokens alike, in prefill only (official code, from
    which this rule was read; it fixes RoPE's base to 10,000 and 128 channels, which are those of its models).

    Inferred: the ids of the median member on models with M-RoPE, whose distance is taken axis by axis; N / k of all
    pictures of a prompt together; prompts in which nothing was merged are left alone. HoloV pads with zero rows, so it
    runs with `repaired`.

    Attributes:
        base: the method whose budget is used.
        repaired: the term of the distance holds while decoding too.
    """

    base: Pruner
    repaired: bool = False
    rope: tuple[tuple[float, ...], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.base.may_pad and hasattr(self.base, "repaired"):
            object.__setattr__(self, "base", replace(self.base, repaired=True))  # type: ignore[call-arg]

    @property
    def scope(self) -> Scope:  # type: ignore[override]
        """That of the base."""
        return self.base.scope

    @property
    def newlines(self) -> Literal["drop", "keep", "see"]:  # type: ignore[override]
        """That of the base."""
        return self.base.newlines

    def resolved(self, model: ModelInfo) -> Pruner:
        return replace(self, base=self.base.resolved(model), rope=model.rope)

    def check(self, model: ModelInfo) -> None:
        name = type(self.base).__name__
        if self.base.moments() != ("embed",) or not isinstance(self.base, Budgeted) or isinstance(self.base, MERGING):
            raise PrunerError(f"RESTORE needs a base that picks a budget of tokens before the first layer, not {name}")
        if not model.rope:
            raise PrunerError(f"{model.name} scales its RoPE, so distances have no angle of their own")
        self.base.check(model)

    def signals(self, model: ModelInfo) -> Sequence[Signal]:
        return self.base.signals(model)

    def start(self, sample: Sample) -> State:
        return self.base.start(sample)

    def _half(self, n: int) -> tuple[Budgeted, int]:
        """The base with its half of the budget for n tokens, and the whole budget."""
        assert isinstance(self.base, Budgeted)
        k = self.base.count(n)
        return replace(self.base, keep=max(1, k // 2) / n, tokens=None), k

    def flops(self, model: ModelInfo, moment: Moment, n: int, width: int) -> int:
        half, k = self._half(n)
        return half.flops(model, moment, n, width) if 1 < k < n else 0

    def at_embed(self, view: View) -> Selection | None:
        n, device = len(view), view.index.device
        half, k = self._half(n)
        if k >= n:
            return None
        chosen = half.at_embed(view) if k > 1 else None
        own = torch.zeros(0, dtype=torch.long, device=device) if chosen is None else chosen.source.sort().values
        is_other = torch.ones(n, dtype=torch.long, device=device).index_fill(0, own, 0)
        other = is_other.argsort(descending=True, stable=True)[: n - len(own)]
        view.charge(2 * len(other) ** 2 * view.hidden.shape[1])
        group, median, size = grouped(view.features[other], max(1, k - len(own)))
        source, order = torch.cat([own, other[median]]).sort()
        row = order.argsort()
        picks, ones = len(own), torch.ones(len(own), device=device)
        weights = Weights(
            torch.cat([row[:picks], row[picks + group]]), torch.cat([own, other]), torch.cat([ones, 1 / size[group]])
        )
        return Selection(source, weights, size=torch.cat([ones, size])[order])

    def bias(self, layer: int, positions: Tensor, keys: Entries) -> Tensor:
        size = keys.size.float()
        if layer == 0:  # every size that is not visual is 1
            size = torch.where(keys.visual, size[None].masked_fill(~keys.visual, 0).sum() / keys.visual.sum(), size)
        out = size.log().expand(positions.shape[1], -1)
        if positions.shape[1] > 1 or self.repaired:
            table = turned(self.rope, positions.device)
            apart = (positions[:, :, None] - keys.positions[:, None]).abs().clamp(max=FARTHEST - 1)
            out = out + (2 - sum(row[far] for row, far in zip(table, apart, strict=True))).log()
        return out * (keys.size > 1).any()


def grouped(tokens: Tensor, made: int) -> tuple[Tensor, Tensor, Tensor]:
    """RESTORE's groups of tokens [r, D]: number of each token's group [r], lower median members and sizes [made]."""
    r, device = len(tokens), tokens.device
    unit = normalize(tokens.float(), dim=1)
    similar = unit @ unit.T
    density = similar.sum(1)
    nearest = similar.masked_fill(density[:, None] >= density, -1).amax(1)
    distinct = 1 - torch.where(nearest == -1, 0, nearest)
    anchor = (density * distinct).argsort(descending=True, stable=True)[:made].sort().values
    group = similar[:, anchor].argmax(1).index_copy(0, anchor, torch.arange(made, device=device))
    size = torch.zeros(made, device=device).index_add(0, group, torch.ones(r, device=device))
    first = size.cumsum(0) - size
    median = group.argsort(stable=True)[(first + (size - 1) // 2).long()]
    return group, median, size


@lru_cache(maxsize=8)
def turned(rope: tuple[tuple[float, ...], ...], device: torch.device) -> Tensor:
    """[A, FARTHEST] what each axis contributes to the mean cosine at every distance."""
    pairs = len(rope[0])
    far = torch.arange(FARTHEST, dtype=torch.float64)
    rows = [sum(((far * turn).cos() for turn in axis if turn), torch.zeros(FARTHEST)) for axis in rope]
    return torch.stack(rows).div(pairs).float().to(device)
