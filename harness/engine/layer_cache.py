"""Keys and values that prefill leaves in one layer, and what cache methods make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.engine.segment import TEXT
from pruners.views import CacheEdit


@dataclass
class LayerCache:
    """Keys and values [Hkv, n, d] of one sample and layer, with what each entry stands for.

    column: column of each visual entry, TEXT for text; [n], or [Hkv, n] where heads kept different entries.
    """

    keys: Tensor
    values: Tensor
    column: Tensor
    index: Tensor
    size: Tensor
    positions: Tensor
    next_position: int
    visual: int


def edited(caches: Sequence[LayerCache], edits: Mapping[int, CacheEdit]) -> dict[int, LayerCache]:
    """Caches of the edited layers after eviction or merging; waits once for the device, to count what is visual."""
    columns = {layer: caches[layer].column[edit.source] for layer, edit in edits.items()}
    if any(column.is_meta for column in columns.values()):  # no values: as if all that left were visual
        left = [max(0, caches[i].visual - caches[i].keys.shape[1] + e.source.shape[1]) for i, e in edits.items()]
    else:
        counts = [(column != TEXT).sum() / len(column) for column in columns.values()]
        left = torch.stack(counts).round().long().tolist() if counts else []
    return {
        layer: _edited(caches[layer], edit, columns[layer], visual)
        for (layer, edit), visual in zip(edits.items(), left, strict=True)
    }


def _edited(cache: LayerCache, edit: CacheEdit, column: Tensor, visual: int) -> LayerCache:
    """One layer's cache after its edit, per key-value head."""
    source = edit.source
    wide = source[..., None].expand(-1, -1, cache.keys.shape[-1])
    return LayerCache(
        keys=cache.keys.gather(1, wide) if edit.keys is None else edit.keys,
        values=cache.values.gather(1, wide) if edit.values is None else edit.values,
        column=column, index=cache.index[source[0]], size=cache.size[source[0]],
        positions=cache.positions[:, source[0]],
        next_position=cache.next_position if edit.next_position is None else edit.next_position, visual=visual,
    )  # fmt: skip
