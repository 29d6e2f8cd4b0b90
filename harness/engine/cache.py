"""Key-value cache of all slots: per layer own lengths, own positions, own meaning of every entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

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

    @property
    def capacity(self) -> int:
        """Entries that fit."""
        return self.keys.shape[2]


class SlotCache:
    """Slots of growing sequences. `length[layer]` [S] counts entries; what lies behind is never attended to.

    On a CPU, where a matrix product of 1 or 3 rows rounds differently from one of 8 or 16, rows are a multiple of 8. A
    GPU rounds as it likes, and there a row more is a cache more.

    Attributes:
        length: [L, S] entries; position: [L, S] ids of the next tokens.
        lengths: the same as `length`, on the host: known from shapes, so that no value has to come back.
        block: what steps attend to is rounded up to so many entries, and so is the room for them.
        grown: how often buffers had to be made anew.
        tracks_positions: whether the position ids of new tokens are kept.
        places: [cap] counts entries.
    """

    def __init__(self, dims: Dims, axes: int, slots: int, device: torch.device, dtype: torch.dtype) -> None:
        self.rows = slots if device.type == "cuda" else -(-slots // 8) * 8
        self.dims, self.block, self.grown, self.tracks_positions = dims, 1, 0, False
        self.row, self.places = torch.arange(self.rows, device=device), torch.arange(0, device=device)
        self.length = torch.zeros(dims.depth, self.rows, dtype=torch.long, device=device)
        shape = (self.rows, dims.kv_heads, 0, dims.head_dim)

        def empty(k: int) -> Layer:
            return Layer(
                torch.zeros(shape, device=device, dtype=dtype), torch.zeros(shape, device=device, dtype=dtype),
                torch.full((self.rows, 1, 0), TEXT, device=device),
                torch.full((self.rows, 0), GENERATED, device=device), torch.ones((self.rows, 0), device=device),
                torch.zeros((self.rows, axes, 0), dtype=torch.long, device=device),
                self.length[k],
            )  # fmt: skip

        self.layers = [empty(k) for k in range(dims.depth)]
        self.position = torch.zeros(dims.depth, self.rows, dtype=torch.long, device=device)
        self.lengths = np.zeros((dims.depth, self.rows), dtype=np.int64)

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
            self.lengths[k, slot] = n
            self.position[k, slot] = own.next_position

    @torch.inference_mode()
    def release(self, slot: int) -> None:
        """Empty a slot: it still runs along, attending to one entry of its own."""
        self.length[:, slot] = 0
        self.position[:, slot] = 0
        self.lengths[:, slot] = 0

    @torch.inference_mode()
    def wipe(self, slot: int) -> str:
        """Zero the keys and values of a slot that holds some which are not finite: masked or not, they would spoil
        whoever comes next. Returns where the first of them came from."""
        own = [(layer.keys[slot, :, :n], layer.values[slot, :, :n])
               for layer, n in zip(self.layers, self.lengths[:, slot].tolist(), strict=True)]  # fmt: skip
        why = origin(own)
        for layer in self.layers:
            layer.keys[slot], layer.values[slot] = 0, 0
        return why

    def longest(self) -> tuple[int, ...]:
        """Entries that the next step attends to in every layer, its own included."""
        return tuple(self.rounded(n + 1) for n in self.lengths.max(1).tolist())

    def rounded(self, n: int) -> int:
        """To whole blocks."""
        return -(-n // self.block) * self.block

    def _grow(self, layer: Layer, room: int, heads: int = 1) -> None:
        more = self.rounded(room) - layer.capacity
        if heads > layer.column.shape[1]:
            layer.column = layer.column.expand(-1, heads, -1).clone()
        if more <= 0:
            return
        self.grown += 1
        layer.keys, layer.values = pad(layer.keys, (0, 0, 0, more)), pad(layer.values, (0, 0, 0, more))
        layer.column, layer.size = pad(layer.column, (0, more), value=TEXT), pad(layer.size, (0, more), value=1)
        layer.index = pad(layer.index, (0, more), value=GENERATED)
        layer.positions = pad(layer.positions, (0, more))
        if layer.capacity > len(self.places):
            self.places = torch.arange(layer.capacity, device=self.places.device)

    def append(self, k: int, key: Tensor, value: Tensor) -> Layer:
        """Write this step's key and value [S, Hkv, 1, d] behind each slot's entries."""
        layer = self.layers[k]
        layer.keys[self.row, :, layer.length] = key[:, :, 0]
        layer.values[self.row, :, layer.length] = value[:, :, 0]
        if self.tracks_positions:
            layer.positions[self.row, :, layer.length] = self.position[k][:, None].expand(-1, layer.positions.shape[1])
        return layer

    def bring(
        self, k: int, slot: int, key: Tensor, value: Tensor, column: Tensor, index: Tensor, positions: Tensor
    ) -> None:  # fmt: skip
        """Add entries [Hkv, s, d] that prefill had dropped to one slot of layer k; their order means nothing."""
        layer, s = self.layers[k], key.shape[1]
        start = int(self.lengths[k, slot])
        self._grow(layer, start + s)
        at = slice(start, start + s)
        layer.keys[slot, :, at], layer.values[slot, :, at] = key, value
        layer.column[slot, :, at], layer.index[slot, at], layer.positions[slot, :, at] = column, index, positions
        layer.size[slot, at] = 1
        layer.length[slot] += s
        self.lengths[k, slot] += s

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


def origin(layers: Sequence[tuple[Tensor, Tensor]]) -> str:
    """Where values stopped being finite, told from the keys and values of one sample in every layer: those of a layer
    are made from what the layer before has left."""
    first = next((k for k, own in enumerate(layers) if not all(bool(x.isfinite().all()) for x in own)), len(layers))
    if first == 0:
        return "the values that enter layer 0 are not finite"
    behind = " or the LM head behind it" if first == len(layers) else ""
    return f"values stopped being finite in layer {first - 1}{behind}"
