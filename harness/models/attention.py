"""The attention function under which the language model runs: packed prefill and slotted decode.

transformers calls it through AttentionInterface. A mask function is registered beside it: without one, transformers
would prepare none and padding would be attended to. Our loop passes no mask; lengths and visibility come with `vtp`.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from harness.compat import AttentionInterface, AttentionMaskInterface, sdpa_mask

NAME = "vtpbench"


class Attend(Protocol):
    """What prefill and decode put in place of a model's attention."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [B, H, T, d], key and value [B, Hkv, T, d], after RoPE -> [B, T, H, d]."""


def _forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, vtp: Attend | None = None, **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    if vtp is None:
        raise RuntimeError(f'attention "{NAME}" runs only inside the engine')
    assert scaling is None or abs(scaling - query.shape[-1] ** -0.5) < 1e-9
    return vtp.attend(int(module.layer_idx), query, key, value), None  # type: ignore[arg-type]


AttentionInterface.register(NAME, _forward)
AttentionMaskInterface.register(NAME, sdpa_mask)


def grouped(query: Tensor, heads: int) -> Tensor:
    """[B, H, T, d] -> [B, Hkv, G * T, d]: query heads of a group share the keys, so they become further queries."""
    b, h, t, d = query.shape
    return query.reshape(b, heads, h // heads * t, d)


def step_logits(query: Tensor, key: Tensor) -> Tensor:
    """[S, H, n] attention logits of one token each [S, H, 1, d] over keys [S, Hkv, n, d], float32."""
    rows, heads, _, d = query.shape
    products: Tensor = grouped(query, key.shape[1]).float() @ key.float().transpose(2, 3)
    return products.reshape(rows, heads, -1).mul(d**-0.5)


def sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Attention of [B, H, T, d] over [B, Hkv, n, d] -> [B, T, H, d]."""
    out = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal, enable_gqa=query.shape[1] != key.shape[1]
    )
    return out.transpose(1, 2)
