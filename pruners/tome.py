"""ToMe: merge similar tokens inside the vision tower, a few in every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pruners.base import Pruner, PrunerError
from pruners.layout import Scope
from pruners.selection import Selection, Weights
from pruners.signals import Signal, TowerKeys
from pruners.views import ModelInfo, View


@dataclass(frozen=True, kw_only=True)
class ToMe(Pruner):
    """Token Merging: Your ViT But Faster (arXiv 2210.09461).

    In every tower layer, between attention and MLP, the tokens at even places are A, those at odd places B. With k the
    keys of the layer, mean over heads, each a in A finds the b in B of the highest cosine(k_a, k_b). The r most similar
    a merge into their b, as means weighted by s, the number of patches that a token stands for. The class token is at
    place 0 and never merges. Attention of later layers is softmax(Q K^T / sqrt(d) + log s), s of the keys.

    Stated by the paper: all of this. Of the official code: at most half of the tokens but the class token merge in a
    layer; the order, which is the unmerged a and then all b, where the former keep their order if there is a class
    token and else stand by falling similarity: places in the picture are lost. r = 16 in every layer is a third-party
    benchmark's setting for CLIP. Inferred: towers that merge patches into units merge whole units, by the mean keys of
    their patches (after RoPE, of which a unit keeps b's); crops by themselves; layers whose output is not projected do
    not run.

    Budget: `keep` or `tokens` is what leaves the tower per crop; R = N - that many merge in equal parts, so that N -
    floor(R (i + 1) / L) are left after layer i of L. Small crops may be left with more, where half is not enough.

    Position ids: renumbered on models with one position axis, in the order above; under M-RoPE those of b stay. On
    LLaVA-NeXT, whose crops take turns in the prompt, tokens stand where their b stood, and newlines leave (inferred).

    Attributes:
        keep, tokens: that budget, as a share of a crop's N tokens or as a count.
        r: tokens that merge per layer, in place of a budget: one number for all layers, or one for each from the first
            on (the rest merges none); None without a budget means 16.
        inflection: -1..1, tilts a constant r from r (1 - inflection) in the first layer to r (1 + inflection) in the
            last: -1 merges early, 1 late.
        last: the last tower layer that merges, from 0; the default is the last that runs.
        class_token: whether the tower has one; the default is what the model has.
    """

    scope: ClassVar[Scope] = "crop"
    inside: ClassVar[bool] = True

    keep: float | None = None
    tokens: int | None = None
    r: int | tuple[int, ...] | None = None
    inflection: float = 0.0
    last: int | None = None
    class_token: bool | None = None
    positions: Literal["auto", "keep", "renumber"] = "auto"

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.keep, self.tokens, self.r)) > 1:
            raise PrunerError("give one of keep=, tokens= (what leaves the tower) and r= (what merges per layer)")
        if self.keep is not None and not 0 < self.keep <= 1:
            raise PrunerError(f"keep must lie in (0, 1], got {self.keep}")
        if self.tokens is not None and self.tokens < 1:
            raise PrunerError(f"tokens must be at least 1, got {self.tokens}")
        if min(self.r if isinstance(self.r, tuple) else (self.r or 0,), default=0) < 0:
            raise PrunerError(f"r must not be negative, got {self.r}")
        if not -1 <= self.inflection <= 1 or (self.inflection and (self._budgeted or isinstance(self.r, tuple))):
            raise PrunerError(f"inflection lies in -1..1 and tilts a constant r, got {self.inflection}")

    @property
    def _budgeted(self) -> bool:
        return self.keep is not None or self.tokens is not None

    def resolved(self, model: ModelInfo) -> Self:
        auto: Literal["keep", "renumber"] = "keep" if model.axes > 1 else "renumber"
        return replace(
            self,
            r=16 if self.r is None and not self._budgeted else self.r,
            last=model.tower_depth + model.feature_layer if self.last is None else self.last,
            class_token=model.has_cls if self.class_token is None else self.class_token,
            positions=auto if self.positions == "auto" else self.positions,
        )

    def check(self, model: ModelInfo) -> None:
        running, last = model.tower_depth + 1 + model.feature_layer, self.resolved(model).last or 0
        if not 0 <= last < running:
            raise PrunerError(f"last={last} does not fit the {running} tower layers that {model.name} runs")
        if isinstance(self.r, tuple) and len(self.r) > last + 1:
            raise PrunerError(f"r has {len(self.r)} numbers for the {last + 1} tower layers that merge")
        if self.class_token and not model.has_cls:
            raise PrunerError(f"{model.name}'s vision tower has no class token")
        super().check(model)

    def tower_layers(self, depth: int) -> tuple[int, ...]:
        return tuple(i for i, r in enumerate(self._schedule) if self._budgeted or r)

    @property
    def _schedule(self) -> tuple[int, ...]:
        """Tokens to merge in each layer, without a budget; exists after `resolved`."""
        if self.last is None:
            raise PrunerError("ToMe acts only after resolved(model)")
        layers = self.last + 1
        if isinstance(self.r, tuple):
            return (*self.r, *[0] * (layers - len(self.r)))
        r = self.r or 0
        low = int(r * (1 - self.inflection))
        step = 2 * (r - low) / max(1, layers - 1)
        return tuple(int(low + step * i) for i in range(layers))

    def signals(self, model: ModelInfo) -> Sequence[Signal]:
        return tuple(TowerKeys(layer) for layer in self.resolved(model).tower_layers(model.tower_depth))

    def tower_bias(self, layer: int, size: Tensor) -> Tensor | None:
        merging = self.tower_layers(0)
        return size.log() if merging and layer > merging[0] else None

    def at_encoder(self, view: View) -> Selection | None:
        layer, n = view.layer or 0, len(view)
        r = min(self._wanted(view, layer), n // 2)
        if r <= 0:
            return None
        metric = view[TowerKeys(layer)].float().mean(0)
        view.charge(2 * (n // 2) * (n - n // 2) * metric.shape[1])
        return merged(metric, view.size, r, bool(self.class_token))

    def _wanted(self, view: View, layer: int) -> int:
        """Tokens of a crop to merge in a layer, if there were no limit."""
        if not self._budgeted:
            return self._schedule[layer]
        if layer == 0:  # crops go through the tower one after the other
            view.state["crop"] = torch.tensor(len(view), device="cpu")
        n = int(view.state["crop"])
        left = min(n, max(1, round((self.keep or 1.0) * n) if self.tokens is None else self.tokens))
        return len(view) - n + (n - left) * (layer + 1) // len(self._schedule)

    def at_embed(self, view: View) -> Selection:
        """Only position ids and newlines are left to do here."""
        return Selection(torch.arange(len(view), device=view.index.device), positions=self.positions)


def merged(metric: Tensor, size: Tensor, r: int, class_token: bool) -> Selection:
    """One step of bipartite matching.

    Args:
        metric: [n, d] by whose cosines tokens are matched, without that of the class token.
        size: [n] patches that each stands for.
        r: how many merge, at most n // 2.
        class_token: there is one before them.
    """
    every = torch.arange(len(metric), device=metric.device)
    a, b = every[int(class_token) :: 2], every[1 - int(class_token) :: 2]
    metric = normalize(metric, dim=1)
    best, partner = (metric[a] @ metric[b].T).max(1)
    order = best.argsort(descending=True, stable=True)
    gone, alone = order[:r], order[r:]
    source = torch.cat([a[alone.sort().values if class_token else alone], b])
    row = torch.empty_like(every).index_copy(0, source, every[: len(source)])
    row = row.index_copy(0, a[gone], len(alone) + partner[gone])
    total = size.new_zeros(len(source)).index_add(0, row, size)
    return Selection(source, Weights(row, every, size / total[row]))
