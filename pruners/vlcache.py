"""VL-Cache: after prefill, the cache entries that text attends to stay, fewer in layers of sparser attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from pruners.base import Pruner, PrunerError
from pruners.signals import Attention, Signal, Sparsity
from pruners.views import CacheEdit, CacheView, ModelInfo


@dataclass(frozen=True, kw_only=True)
class VLCache(Pruner):
    """VL-Cache (Sparsity and Modality-Aware KV Cache Compression, arXiv 2410.23317).

    At the cache moment, from the attention of the text after the last picture. The sparsity s of a layer is the share
    of causal weights below `threshold` times the largest of their row, mean over heads. Of the n entries of layer i the
    last int(window * keep * n) stay and, among the older ones, the int(b_i * n) with the highest attention, summed over
    rows and heads, at least one each; visual and text entries alike.

        b_i = clamp((1 - window) * keep * depth * (1 - s_i) / sum_j (1 - s_j),  0.01 * (1 - window),  1)

    What the clamp takes or gives is not spread over the other layers. All heads keep the same entries; nothing is
    merged. Position ids stay, for the reply too. Prefill is dense; layers keep unequal numbers, which depend on values:
    one wait for the device per sample. A prompt without a picture, or with no text behind it, is left alone.

    There is no official code. Stated by the paper: sparsity, its threshold, budgets by density, scores by attention
    after the picture. Of EffiVLM-Bench's version: the window of equal size in all layers, rounding, the clamp, causal
    weights as the base of the share, sums over heads.

    Attributes:
        keep: share of the cache of all layers that stays, text included; `Trace.kv` counts visual entries alone.
        window: share of the budget for the last entries.
        depth: layers of the model; `resolved` fills it in.
    """

    keep: float = 0.1
    threshold: float = 0.01
    window: float = 0.1
    depth: int = field(default=0, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise PrunerError(f"keep must lie in (0, 1], got {self.keep}")
        if not 0 <= self.window < 1 or not 0 <= self.threshold <= 1:
            raise PrunerError(f"needs window in [0, 1) and threshold in [0, 1], got {self.window} and {self.threshold}")

    def resolved(self, model: ModelInfo) -> Self:
        return replace(self, depth=model.depth)

    def signals(self, model: ModelInfo) -> Sequence[Signal]:
        layers = range(model.depth)
        return (*map(self._sparsity, layers), *map(self._scores, layers))

    def _sparsity(self, layer: int) -> Sparsity:
        return Sparsity(layer, rows="text", threshold=self.threshold)

    def _scores(self, layer: int) -> Attention:
        return Attention(layer, rows="text", keys="all", head="sum", row="sum")

    def shares(self, sparsity: Tensor) -> Tensor:
        """[depth] b of every layer from its sparsity [depth]."""
        dense = 1 - sparsity
        scored = 1 - self.window
        return (dense / dense.sum() * self.keep * scored * len(dense)).clamp(0.01 * scored, 1)

    def at_cache(self, view: CacheView) -> CacheEdit | None:
        n = len(view.column)
        if not len(view.sample.layout) or not view.sample.text_after:
            return None
        if "shares" not in view.state:
            view.state["shares"] = self._shares(view)
        scored = max(1, int(view.state["shares"][view.layer] * n))
        recent = max(1, int(n * self.keep * self.window))
        if scored + recent >= n:
            return None
        order = view[self._scores(view.layer)][:-recent].argsort(descending=True, stable=True)
        window = torch.arange(n - recent, n, device=order.device)
        return CacheEdit(torch.cat([order[:scored].sort().values, window]).expand(len(view.keys), -1))

    def _shares(self, view: CacheView) -> Tensor:
        """[depth] b on the CPU; without values, as if all layers were equally sparse."""
        sparsity = torch.stack([view[self._sparsity(layer)] for layer in range(self.depth)])
        return self.shares(torch.zeros(self.depth) if sparsity.is_meta else sparsity).cpu()
