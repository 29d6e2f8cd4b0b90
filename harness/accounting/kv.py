"""Bytes of the key-value cache."""

from __future__ import annotations

from harness.accounting.dims import Dims


def entry_bytes(d: Dims) -> int:
    """One token's key and value in one layer."""
    return 2 * d.kv_heads * d.head_dim * d.value_bytes


def slot_bytes(d: Dims, prompt: int, new_tokens: int) -> int:
    """What one slot reserves, unpruned."""
    return d.depth * (prompt + new_tokens) * entry_bytes(d)
