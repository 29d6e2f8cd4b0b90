"""Key-value cache of all slots: per layer own lengths, own positions, own meaning of every entry."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.accounting.dims import Dims
from harness.engine.layer_cache import LayerCache
from harness.engine.segment import TEXT

MERGED = -3
"""Marks the entry that stands for all kept visual tokens together."""
GENERATED = 1 << 40
"""Sequence index of entries that come after every prompt."""


@dataclass
class Layer:
    """One layer of all slots.

    Attributes:
        keys, values: [S, Hkv, cap, d].
        column: [S, Hkv or 1, cap] which visual token an entry is, TEXT or MERGED.
        index: [S, cap] its place in the prompt; size: [S, cap]; positions: [S, A, cap].
        length: [S] entries.
    """

    keys: Tensor
    values: Tensor
    column: Tensor
    index: Tensor
    size: Tensor
    positions: Tensor
    length: Tensor


class SlotCache:
    """Slots of growing sequences. `length[layer]` [S] counts entries; what lies behind is never attended to.

    Rows are a multiple of 8: on a CPU a matrix product of 1 or 3 rows rounds differently from one of 8 or 16 rows.
    """

    def __init__(self, dims: Dims, axes: int, slots: int, device: torch.device, dtype: torch.dtype) -> None:
        self.dims, self.rows = dims, -(-slots // 8) * 8
        shape = (self.rows, dims.kv_heads, 0, dims.head_dim)

        def empty() -> Layer:
            return Layer(
                torch.zeros(shape, device=device, dtype=dtype), torch.zeros(shape, device=device, dtype=dtype),
                torch.full((self.rows, 1, 0), TEXT, device=device),
                torch.full((self.rows, 0), GENERATED, device=device), torch.ones((self.rows, 0), device=device),
                torch.zeros((self.rows, axes, 0), dtype=torch.long, device=device),
                torch.zeros(self.rows, dtype=torch.long, device=device),
            )  # fmt: skip

        self.layers = [empty() for _ in range(dims.depth)]
        self.position = torch.zeros(dims.depth, self.rows, dtype=torch.long, device=device)
        # Known from shapes, so that no value has to come back from the device: entries of every layer and slot.
        self.lengths = [[0] * self.rows for _ in range(dims.depth)]

    @property
    def allocated(self) -> int:
        """Bytes of all key and value buffers."""
        return sum(2 * layer.keys.numel() * self.dims.value_bytes for layer in self.layers)

    @torch.inference_mode()
    def admit(self, slot: int, cache: list[LayerCache], more: int) -> None:
        """Put a prefilled sample into a slot and reserve room for what will be added, its reply above all."""
        for k, (layer, own) in enumerate(zip(self.layers, cache, strict=True)):
            n = own.keys.shape[1]
            self._grow(layer, n + more, 1 if own.column.ndim == 1 else len(own.column))
            layer.keys[slot, :, :n], layer.values[slot, :, :n] = own.keys, own.values
            layer.column[slot], layer.index[slot], layer.size[slot] = TEXT, GENERATED, 1
            layer.column[slot, :, :n] = own.column
            layer.index[slot, :n] = own.index
            layer.size[slot, :n] = own.size
            layer.positions[slot, :, :n] = own.positions
            layer.length[slot] = n
            self.lengths[k][slot] = n
            self.position[k, slot] = own.next_position

    @torch.inference_mode()
    def release(self, slot: int) -> None:
        """Empty a slot: it still runs along, attending to one entry of its own."""
        for k, layer in enumerate(self.layers):
            layer.length[slot] = 0
            self.lengths[k][slot] = 0
            self.position[k, slot] = 0

    def _grow(self, layer: Layer, room: int, heads: int = 1) -> None:
        more = room - layer.keys.shape[2]
        if heads > layer.column.shape[1]:
            layer.column = layer.column.expand(-1, heads, -1).clone()
        if more <= 0:
            return
        pad = torch.nn.functional.pad
        layer.keys, layer.values = pad(layer.keys, (0, 0, 0, more)), pad(layer.values, (0, 0, 0, more))
        layer.column, layer.size = pad(layer.column, (0, more), value=TEXT), pad(layer.size, (0, more), value=1)
        layer.index = pad(layer.index, (0, more), value=GENERATED)
        layer.positions = pad(layer.positions, (0, more))

    def append(self, k: int, key: Tensor, value: Tensor) -> Layer:
        """Write this step's key and value [S, Hkv, 1, d] behind each slot's entries."""
        layer = self.layers[k]
        row = torch.arange(self.rows, device=key.device)
        layer.keys[row, :, layer.length] = key[:, :, 0]
        layer.values[row, :, layer.length] = value[:, :, 0]
        layer.positions[row, :, layer.length] = self.position[k][:, None].expand(-1, layer.positions.shape[1])
        return layer

    def bring(
        self, k: int, slot: int, key: Tensor, value: Tensor, column: Tensor, index: Tensor, positions: Tensor,
        pending: int = 0,
    ) -> None:  # fmt: skip
        """Add entries [Hkv, s, d] that prefill had dropped to one slot of layer k.

        `pending` 1: the layer already holds this step's token behind its counted entries. Order means nothing here.
        """
        layer, s = self.layers[k], key.shape[1]
        start = self.lengths[k][slot] + pending
        self._grow(layer, start + s)
        at = slice(start, start + s)
        layer.keys[slot, :, at], layer.values[slot, :, at] = key, value
        layer.column[slot, :, at], layer.index[slot, at], layer.positions[slot, :, at] = column, index, positions
        layer.size[slot, at] = 1
        layer.length[slot] += s
        self.lengths[k][slot] += s

    def bring_mean(self, k: int, slot: int, columns: Tensor) -> int:
        """Add to one slot of layer k the mean of its entries in these columns [Nv]; returns how many were added."""
        layer = self.layers[k]
        own = layer.column[slot, 0]
        at = torch.nonzero((own >= 0) & columns[own.clamp(min=0)]).flatten()
        key, value = (x[slot][:, at].mean(1, keepdim=True) for x in (layer.keys, layer.values))
        positions = layer.positions[slot][:, at[:1]]  # the mean of rotated keys has no position of its own
        after = torch.full_like(at[:1], GENERATED)
        self.bring(k, slot, key, value, torch.full_like(at[:1], MERGED), after, positions)
        return 1

    @torch.inference_mode()
    def step(self, live: list[int]) -> None:
        """Count this step's entries and positions in the slots that are in use."""
        row = torch.tensor(live, device=self.position.device)
        self.position[:, row] += 1
        for layer, lengths in zip(self.layers, self.lengths, strict=True):
            layer.length[row] += 1
            for slot in live:
                lengths[slot] += 1
