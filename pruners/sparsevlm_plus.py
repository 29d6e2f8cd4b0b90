"""SparseVLM+: SparseVLM with attention freed from the pull of nearby positions, read by its most visual heads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruners.base import PrunerError
from pruners.selection import Selection, keep_top
from pruners.signals import Attention, Keys, Signal
from pruners.sparsevlm import Counts, Rated
from pruners.views import ModelInfo, View


@dataclass(frozen=True, kw_only=True)
class SparseVLMPlus(Rated):
    """SparseVLM+ (version 2 of the code of arXiv 2410.04417): no merging, position ids stay.

    See `Rated` for raters and schedule. The attention A of every head is divided by the gravity of its positions,

        G(i, j) = <R_i 1, R_j 1> / sqrt(d) = 2 / sqrt(d) * sum_f cos((i - j) theta_f),  theta_f = base^(-2 f / d),

    the RoPE product of two vectors of ones. Then only the heads with the largest sum of A / G over raters and visual
    tokens count; scores are its mean over them and the raters. G can be small or negative far from the text, as it is
    in the official code.

    All of this is of the official code. Inferred: models of no more than `heads` heads use all of them; under M-RoPE
    every axis counts the same.

    Attributes:
        heads: how many heads count.
        rope_base: RoPE base of the gravity, LLaMA's by default; a method cannot see that of the model.
    """

    published: ClassVar[Mapping[int, Counts]] = {
        64: (66, 34, 20), 96: (246, 54, 28), 128: (238, 108, 60), 192: (300, 200, 118),
    }  # fmt: skip
    heads: int = 14
    rope_base: float = 10000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.heads < 1 or self.rope_base <= 1:
            raise PrunerError(f"needs heads >= 1 and rope_base > 1, got {self.heads} and {self.rope_base}")

    def signals(self, model: ModelInfo) -> Sequence[Signal]:
        # Keys tell the width of a head, no more.
        return tuple(s for layer in self.layers(model.depth) for s in (_attention(layer), Keys(layer - 1)))

    def select(self, view: View, k: int) -> Selection:
        layer, text = view.layer or 0, view.sample.text_after
        width = view[Keys(layer - 1)].shape[-1]
        queries, keys = (ones(view.positions[:, at], width, self.rope_base) for at in (slice(-text, None), view.index))
        view.charge(2 * len(queries) * queries.shape[1] * keys.shape[1] * width)
        pull = (queries @ keys.transpose(1, 2)).mean(0) / math.sqrt(width)
        freed = view[_attention(layer)].float() / pull
        by_head = (view.state["raters"][:, None] * freed).sum(1)  # [H, n]
        top = by_head.sum(1).argsort(descending=True, stable=True)[: self.heads]
        return keep_top(by_head[top].mean(0), k)


def _attention(layer: int) -> Attention:
    return Attention(layer - 1, rows="text", head="none", row="none")


def ones(positions: Tensor, width: int, base: float) -> Tensor:
    """RoPE of vectors of ones, [A, l, width] at position ids [A, l].

    Rounded as LLaMA rounds: far from the text G is small, and a division by it shows the last digits.
    """
    speed = 1 / base ** (torch.arange(0, width, 2, device=positions.device).float() / width)
    angle = positions[..., None].float() * speed
    return torch.cat([angle.cos() - angle.sin(), angle.cos() + angle.sin()], dim=-1)
