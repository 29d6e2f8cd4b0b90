"""Signals from inside a vision tower, for towers whose blocks have `norm1` and a joint `attn.qkv`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pruners.signals import Signal, TowerAttention, TowerKeys

BLOCK = 256
"""Query rows per block: attention is summed over blocks, so that no [H, P, P] tensor exists."""


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding of x [H, n, d] with tables [n, d]: pairs are (i, i + d / 2)."""
    cos, sin = rope
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def tower_signal(
    signal: Signal, block: Any, hidden: Tensor, rope: tuple[Tensor, Tensor], unit: int
) -> tuple[Tensor, int]:
    """A signal of one tower block, from the hidden states [P, Dt] entering it, and its FLOPs.

    Values of the `unit` tower tokens behind a visual token are averaged (VisionZip's and HoloV's recipe for Qwen).
    """
    p, width = hidden.shape
    heads = block.attn.num_heads
    q, k, _ = block.attn.qkv(block.norm1(hidden)).reshape(p, 3, heads, -1).permute(1, 2, 0, 3).float().unbind(0)
    cost = 2 * p * width * 3 * width
    if isinstance(signal, TowerKeys):
        return rotate(k, rope).reshape(heads, p // unit, unit, -1).mean(2), cost
    if not isinstance(signal, TowerAttention) or signal.rows == "cls":
        raise ValueError(f"this tower has no class token, so it cannot record {signal}")
    q, k = rotate(q, rope) * q.shape[-1] ** -0.5, rotate(k, rope)
    total = sum((q[:, i : i + BLOCK] @ k.transpose(1, 2)).softmax(-1).sum(1) for i in range(0, p, BLOCK))
    assert isinstance(total, Tensor)
    received = total.reshape(heads, p // unit, unit).mean(2)
    reduced = {"none": received, "mean": received.mean(0), "sum": received.sum(0), "max": received.amax(0)}
    return reduced[signal.head], cost + 2 * p * p * width
