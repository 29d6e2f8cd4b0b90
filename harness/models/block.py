"""A decoder layer of the Llama and Qwen kind, written out as its formulas.

The stock modules take a dozen Python calls per layer, and hide from a compiler what could be one kernel. Weights are
the stock ones, read where they are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm, silu

from harness.models.attention import Attend
from harness.models.tower import rotate

KNOWN = {
    "LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen2VLDecoderLayer", "Qwen2_5_VLDecoderLayer",
    "Qwen3DecoderLayer", "Qwen3VLTextDecoderLayer",
}  # fmt: skip
"""Stock layers that compute what `Block` does; others may have its parts and scale something besides."""

Affine = tuple[Tensor, Tensor | None]


class Weights(NamedTuple):
    """Of one layer; `qk_norm` [H + Hkv, d], or None (Llama, Qwen2)."""

    before: Tensor
    q: Affine
    k: Affine
    v: Affine
    qk_norm: Tensor | None
    o: Affine
    between: Tensor
    gate: Affine
    up: Affine
    down: Affine
    eps: float


class Block:
    """One stock decoder layer: x + o(attention(norm(x))), then x + down(silu(gate(norm(x))) * up(norm(x)))."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.index, self.width = int(attention.layer_idx), int(attention.head_dim)
        q, k, v, o = (_affine(getattr(attention, f"{name}_proj")) for name in "qkvo")
        norms = [getattr(attention, f"{name}_norm", None) for name in "qk"]
        pairs = zip(norms, (q, k), strict=True)
        scales = [norm.weight.detach().expand(len(w[0]) // self.width, -1) for norm, w in pairs if norm is not None]
        gate, up, down = (_affine(getattr(mlp, f"{name}_proj")) for name in ("gate", "up", "down"))
        self.weights = Weights(
            layer.input_layernorm.weight, q, k, v, torch.cat(scales) if scales else None, o,
            layer.post_attention_layernorm.weight, gate, up, down, layer.input_layernorm.variance_epsilon,
        )  # fmt: skip

    @staticmethod
    def why_not(layer: nn.Module) -> str | None:
        """Why a layer cannot be written out like this; None: it can."""
        if type(layer).__name__ not in KNOWN:
            return f"{type(layer).__name__} is not one of {', '.join(sorted(KNOWN))}"
        odd = [name for name, part in layer.named_modules() if name.endswith("_proj") and type(part) is not nn.Linear]
        return f"{odd[0]} is a {type(layer.get_submodule(odd[0])).__name__}" if odd else None

    def __call__(self, hidden: Tensor, rope: tuple[Tensor, Tensor], attention: Attend) -> Tensor:
        """The layer on hidden [B, T, D] under rotary tables [B, T, d]."""
        return leave(hidden, attention.attend(self.index, *enter(hidden, *rope, self.weights)), self.weights)


def enter(hidden: Tensor, cos: Tensor, sin: Tensor, w: Weights) -> tuple[Tensor, Tensor, Tensor]:
    """Query [B, H, T, d], key and value [B, Hkv, T, d] of hidden [B, T, D]."""
    x, d = normed(hidden, w.before, w.eps), cos.shape[-1]
    q, k, v = (linear(x, *affine).unflatten(-1, (-1, d)) for affine in (w.q, w.k, w.v))
    qk = torch.cat([q, k], dim=2)
    qk = rotate(qk if w.qk_norm is None else normed(qk, w.qk_norm, w.eps), (cos[:, :, None], sin[:, :, None]))
    q, k = qk.transpose(1, 2).split([q.shape[2], k.shape[2]], dim=1)
    return q, k, v.transpose(1, 2)


def leave(hidden: Tensor, mixed: Tensor, w: Weights) -> Tensor:
    """What leaves the layer [B, T, D], given what attention made [B, T, H, d]."""
    hidden = hidden + linear(mixed.flatten(2), *w.o)
    x = normed(hidden, w.between, w.eps)
    return hidden + linear(silu(linear(x, *w.gate)) * linear(x, *w.up), *w.down)


def normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS norm over the last axis, in float32, then scaled in the type of x."""
    if x.dtype == torch.float32 and weight.ndim == 1:
        return rms_norm(x, x.shape[-1:], weight, eps)
    return rms_norm(x.float(), x.shape[-1:], eps=eps).to(x.dtype) * weight


def _affine(part: nn.Linear) -> Affine:
    return part.weight, part.bias
