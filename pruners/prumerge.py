"""PruMerge and PruMerge+: keep what the class token attends to, and merge every other token into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from pruners.base import Moment, PrunerError
from pruners.layout import Scope
from pruners.merging import Merging
from pruners.selection import Selection, Weights
from pruners.signals import Signal, TowerAttention, TowerKeys
from pruners.views import ModelInfo, View


@dataclass(frozen=True, kw_only=True)
class PruMerge(Merging):
    """LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models (arXiv 2403.15388).

    Score a_i = softmax_i(q_cls . k_i / sqrt(width)), with queries and keys of the tower's last layer as one wide head.
    The highest are centres; each becomes x_c + sum of a_j x_j over the 32 tokens j with the most similar keys (cosine;
    other centres among them). One more token, sum of a_j x_j over all that are no centres, stands behind them.

    Stated by the paper: the score, similar keys, weights a. Of the official code: sums are not normalised; tokens merge
    on the tower's output, before the projector; centres stand in the order of their scores; adaptive=True takes as many
    centres as scores exceed Q3 + 1.5 (Q3 - Q1), int(n * share) of them. Ours: the budget counts the token behind the
    centres, so that tokens=64 means 64; ties to the lower index.

    Inferred, on a tower that merges (Qwen3-VL, InternVL) or has no class token: joint attention received from all
    tokens takes the place of the class token's row; either is scaled to sum to one over the visual tokens, as a is but
    for its class token; embeddings are merged, centres stand in raster order. Position ids: see `BeforeLLM`; where
    they stay, the token behind the centres shares those of the last one.

    Attributes:
        adaptive: the scores decide how many centres there are, and the budget is not used: crop by crop, where
            the official code has one share for the batch. This reads numbers from the device.
        neighbours: tokens merged into a centre.
    """

    scope: ClassVar[Scope] = "crop"
    adaptive: bool = False
    neighbours: int = 32

    def check(self, model: ModelInfo) -> None:
        super().check(model)
        if self.neighbours < 1:
            raise PrunerError(f"neighbours must be at least 1, got {self.neighbours}")

    def hands_on_made(self, model: ModelInfo) -> bool:
        return True

    def signals(self, model: ModelInfo) -> Sequence[Signal]:
        me = self.resolved(model)
        return (*me._read(), *me.hidden)

    @property
    def attention(self) -> TowerAttention:
        return replace(super().attention, head="joint")

    def _read(self) -> tuple[TowerAttention, TowerKeys]:
        return self.attention, TowerKeys(self.attention.layer)

    def flops(self, model: ModelInfo, moment: Moment, n: int, width: int) -> int:
        if self.adaptive or self.count(n) >= n:
            return 0
        return 2 * (self.count(n) - 1) * n * model.tower_heads * model.tower_head_dim

    def at_embed(self, view: View) -> Selection | None:
        if not self.adaptive and self.count(len(view)) >= len(view):
            return None
        scores, keys = (view[signal].float() for signal in self._read())
        centres = self.centres(scores, self.count(len(view)) - 1)
        if self.tower == "merged":
            centres = centres.sort().values
        if self.tower == "merged" or self.scores == "received":
            scores = scores / scores.sum()
        if self.adaptive:
            view.charge(2 * len(centres) * len(view) * keys.shape[0] * keys.shape[2])
        weights = merged(centres, scores, keys.transpose(0, 1).flatten(1), self.neighbours)
        return self.merged(view, torch.cat([centres, centres.new_full((1,), -1)]), weights)

    def centres(self, scores: Tensor, k: int) -> Tensor:
        """The centres [K] in their order, from scores [n] and the budget k, which adaptive methods do not use."""
        k = int(len(scores) * outliers(scores)) if self.adaptive else k
        return ranked(scores)[:k]


@dataclass(frozen=True, kw_only=True)
class PruMergePlus(PruMerge):
    """PruMerge+ (arXiv 2403.15388): PruMerge with further centres that are evenly spread over the picture.

    adaptive=True, of the official code: r is the share of outliers, and every int(int(1 / r) / 3)-th token from 0 on is
    a further centre if it is none yet; the last token never is. Without outliers, where the official code fails, only
    token 0 is.

    With a budget, of the official code's training path: half of the centres have the highest scores, the other half are
    the tokens step / 2 + i * step, step = 1 / r, in raster order behind them, and the token behind all of them. A token
    can be in both halves: then it is there twice, and for each such token the lowest one that is no centre is lost.
    Inferred: step = n // centres, and where this does not give the right number of tokens, places (2 i + 1) n / 2m.

    Attributes:
        step: of the spread tokens, all of which are then centres, whatever the budget says of their number.
        repaired: spread tokens are taken from those that have no centre yet, so that none is twice and none is lost;
            the last token takes part.
    """

    may_repeat: ClassVar[bool] = True
    step: int | None = None
    repaired: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step is not None and self.step < 1:
            raise PrunerError(f"step must be at least 1, got {self.step}")

    def centres(self, scores: Tensor, k: int) -> Tensor:
        n, order = len(scores), ranked(scores)
        if self.adaptive:
            share = outliers(scores)
            top = order[: int(n * share)]
            step = max(1, int(int(1 / share) / 3)) if share else n
            spread = torch.arange(0, n if self.repaired else n - 1, step, device=scores.device)
            return torch.cat([top, spread[~torch.isin(spread, top)]])
        m = k // 2
        top = order[: k - m]
        if self.repaired:
            return torch.cat([top, order[k - m :].sort().values[even(n - k + m, m, scores.device)]])
        spread = places(n, self.step, scores.device) if self.step else stepped(n, m, scores.device)
        return torch.cat([top, spread])


def ranked(scores: Tensor) -> Tensor:
    """Indices of scores [n], the highest first, ties to the lower index."""
    return scores.argsort(descending=True, stable=True)


def outliers(scores: Tensor) -> float:
    """The share of scores [n] above Q3 + 1.5 (Q3 - Q1); without values, about that of a normal distribution."""
    if scores.is_meta:
        return 0.01
    low, high = torch.quantile(scores, scores.new_tensor([0.25, 0.75])).unbind()
    return int((scores > high + 1.5 * (high - low)).sum()) / len(scores)


def even(n: int, m: int, device: torch.device) -> Tensor:
    """m <= n of n places, evenly spread, half a step in."""
    return (2 * torch.arange(m, device=device) + 1) * n // (2 * max(m, 1))


def stepped(n: int, m: int, device: torch.device) -> Tensor:
    """m <= n of n places, a whole number of places apart as far as that covers all of them."""
    found = places(n, n // max(m, 1), device)
    return found if len(found) == m else even(n, m, device)


def places(n: int, step: int, device: torch.device) -> Tensor:
    """Every step-th of n places but the last, half a step in."""
    return torch.arange(step // 2, n - 1, step, device=device)


def merged(centres: Tensor, scores: Tensor, keys: Tensor, neighbours: int) -> Weights:
    """W [K + 1, n] of centres [K] and the token behind them, from scores [n] and keys [n, d], all float32.

    A centre that is there twice has its copy among its neighbours, and takes the place of a token that is no centre.
    """
    n, k = len(scores), len(centres)
    others = torch.zeros_like(scores).scatter(0, centres, 1.0).argsort(descending=True, stable=True)[k:]
    pool = torch.cat([centres, others])
    unit = torch.nn.functional.normalize(keys[pool], dim=1)
    similar = (unit[:k] @ unit.T).fill_diagonal_(-torch.inf)
    near = pool[similar.argsort(dim=1, descending=True, stable=True)[:, : min(neighbours, n - 1)]]
    row = torch.arange(k + 1, device=scores.device)
    return Weights(
        torch.cat([row[:k], row[:k, None].expand_as(near).flatten(), row[k:].expand(n - k)]),
        torch.cat([centres, near.flatten(), others]),
        torch.cat([torch.ones_like(scores[:k]), scores[near].flatten(), scores[others]]),
    )
