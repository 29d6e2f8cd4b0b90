"""Attention over sequences of own lengths in one kernel, where torch has it (a GPU, half precision)."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from harness.models.attention import grouped, sdpa
from harness.notices import say_once, told


def _kernel(*arguments: Any, **options: Any) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    out = varlen_attn(*arguments, **options)
    assert isinstance(out, Tensor)
    return out


def packed(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int) -> Tensor:
    """Causal attention inside each of several sequences that follow one another.

    Args:
        query: [1, H, T, d]; key, value: [1, Hkv, T, d].
        ends: [sequences + 1] int32, from 0: where each one ends.

    Returns:
        [1, T, H, d]
    """
    q, k, v = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
    return _kernel(q, k, v, ends, ends, longest, longest, window_size=(-1, 0), enable_gqa=True)[None]


def slotted(query: Tensor, keys: Tensor, values: Tensor, used: Tensor, longest: int) -> Tensor:
    """Attention of one token per slot to the first entries of its slot: those behind are not read.

    Every key-value head of every slot is a sequence, to which the query heads of its group attend.

    Args:
        query: [S, H, 1, d]; keys, values: [S, Hkv, capacity, d], contiguous.
        used: [S] entries to attend to; `longest`: no slot has more.

    Returns:
        [S, 1, H, d]
    """
    slots, heads, capacity, d = keys.shape
    q = query.reshape(slots * heads, -1, d)
    k, v = (x.reshape(slots * heads * capacity, 1, d) for x in (keys, values))
    each = torch.arange(slots * heads + 1, device=query.device, dtype=torch.int32)
    lengths = used.to(torch.int32).repeat_interleave(heads, output_size=slots * heads)
    out = _kernel(q, k, v, each, each * capacity, 1, longest, enable_gqa=True, seqused_k=lengths)
    return out.reshape(slots, 1, -1, d)


@cache
def works(device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, width: int) -> bool:
    """Whether both kernels do here what `sdpa` does, tried on random numbers; says why, where a GPU lacks them."""
    if device.type != "cuda":
        return False
    if dtype not in (torch.float16, torch.bfloat16):
        say_once(f"attention runs with masks over padded entries, which is slower: torch's kernel takes no {dtype}")
        return False
    draw = torch.Generator(device).manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, device=device, dtype=dtype)

    try:
        q, k, v = drawn(1, heads, 24, width), drawn(1, kv_heads, 24, width), drawn(1, kv_heads, 24, width)
        ends = torch.tensor([0, 9, 24], device=device, dtype=torch.int32)
        parts = zip(*(x.split([9, 15], dim=2) for x in (q, k, v)), strict=True)
        alone = [sdpa(q, k, v, causal=True) for q, k, v in parts]
        apart = (packed(q, k, v, ends, 15) - torch.cat(alone, dim=1)).abs().max()
        q, k, v = drawn(2, heads, 1, width), drawn(2, kv_heads, 32, width), drawn(2, kv_heads, 32, width)
        used = torch.tensor([5, 20], device=device)
        mask = (torch.arange(32, device=device) < used[:, None])[:, None, None]
        wanted = sdpa(grouped(q, kv_heads), k, v, mask).transpose(1, 2).reshape(2, 1, heads, width)
        apart = torch.maximum(apart, (slotted(q, k, v, used, 32) - wanted).abs().max())
        reason = None if float(apart) < 0.05 else f"torch's kernel differs by {float(apart):.2g}"
    except Exception as error:
        reason = f"torch's kernel for sequences of own lengths fails: {told(error)}"
    if reason is not None:
        say_once(f"attention runs with masks over padded entries, which is slower: {reason}")
    return reason is None
