"""What a method decides: which visual tokens go on, as which mixtures of the old ones, under which position ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Positions = Literal["auto", "keep", "renumber"] | Tensor


@dataclass(frozen=True)
class Weights:
    """A sparse matrix W [K, n] in coordinate form: W[rows[e], cols[e]] += values[e].

    Coordinates instead of a dense matrix, because a merge touches every old token once or twice: E is about n.
    """

    rows: Tensor
    cols: Tensor
    values: Tensor

    def apply(self, x: Tensor, k: int) -> Tensor:
        """W @ x for x [n, D] -> [k, D], summed in float32."""
        out = x.new_zeros(k, x.shape[-1], dtype=torch.float32)
        out.index_add_(0, self.rows, self.values[:, None].float() * x[self.cols].float())
        return out.to(x.dtype)


@dataclass(frozen=True)
class Selection:
    """The tokens that replace the n tokens of a view, in order.

    Attributes:
        source: [K] int64, the old token that row k continues (its sequence index, picture place and position id are
            kept); -1 for a made token, which then needs `weights` and explicit `positions`.
        weights: W [K, n]; the new rows are W @ old rows. None means the rows `source` unchanged. The same W is
            applied to DeepStack rows and drawn by the overlays.
        positions: "keep" leaves every token its position ids (a made one takes those of the row before it);
            "renumber" counts the whole remaining sequence 0, 1, 2, ... on every axis; "auto" renumbers with one axis
            and keeps with M-RoPE, as the official implementations before the language model do; a tensor [A, K]
            (A = axes of the model's RoPE) gives the ids of the rows.
        features: [K, D] the new rows themselves, where they are no linear map of the view's rows because they were
            merged before the projector; `weights` then says which tokens went into them.
        size: [K] how many original tokens a row stands for (ToMe's and RESTORE's attention bias); None means that
            sizes follow `weights` as the number of old tokens summed into a row (or stay, without weights).
    """

    source: Tensor
    weights: Weights | None = None
    positions: Positions = "keep"
    size: Tensor | None = None
    features: Tensor | None = None

    def __len__(self) -> int:
        return self.source.shape[0]

    def mix(self, x: Tensor) -> Tensor:
        """W x [K, D] for any rows x [n, D] of the old tokens."""
        return x[self.source] if self.weights is None else self.weights.apply(x, len(self))

    def rows(self, x: Tensor) -> Tensor:
        """New rows [K, D] from old rows x [n, D]."""
        return self.mix(x) if self.features is None else self.features.to(x)

    def sizes(self, old: Tensor) -> Tensor:
        """[K] sizes of the new rows, given sizes [n] of the old ones."""
        if self.size is not None:
            return self.size.to(old.dtype)
        if self.weights is None:
            return old[self.source]
        counts = old.new_zeros(len(self))
        return counts.index_add_(0, self.weights.rows, old[self.weights.cols])


def keep_top(scores: Tensor, k: int) -> Selection:
    """The k highest of scores [n], float32, ties to the lower index, in their old order."""
    order = torch.argsort(scores.float(), descending=True, stable=True)
    return Selection(order[:k].sort().values)
