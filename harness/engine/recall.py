"""Bringing back visual tokens that prefill dropped: what is kept of them, and how they get keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.accounting.flops import token_flops
from harness.engine.cache import SlotCache
from harness.engine.parts import Part
from harness.engine.segment import Held
from harness.models.attention import grouped
from harness.models.base import Model
from pruners.views import Recall

BLOCK = 256
"""Query rows per block: no [H, n, n] tensor exists."""


@dataclass
class Reserve:
    """The dropped tokens of one slot, in sequence order.

    Attributes:
        column, index: [r] column of each, and its place in the prompt; positions: [A, r].
        hidden: [r, D] states entering layer `depth` of each; deepstack: [J, r, D].
        depth: [r] layer that each is about to enter, on the CPU.
        bare: layer from which on prefill left nothing but the kept ones.
        watched: which rows were about to enter the monitored layer at the first trigger, and their keys there.
        length: tokens of the prompt; `spent`: FLOPs of bringing back so far; `entries`: cache entries added.
    """

    column: Tensor
    index: Tensor
    positions: Tensor
    hidden: Tensor
    deepstack: Tensor
    depth: Tensor
    bare: int
    length: int
    watched: tuple[Tensor, Tensor] | None = None
    spent: int = 0
    entries: int = 0
    merged: bool = False

    @classmethod
    def of(cls, held: Sequence[Held], length: int, last: int | None) -> Reserve:
        """From what prefill dropped moment by moment; `last` is the model's depth if all of it is in the cache."""
        index = torch.cat([part.index for part in held])
        order = index.argsort(stable=True)
        depth = torch.cat([torch.full((len(part.index),), part.layer) for part in held])[order.cpu()]
        return cls(
            torch.cat([part.column for part in held])[order], index[order],
            torch.cat([part.positions for part in held], dim=1)[:, order],
            torch.cat([part.hidden for part in held])[order],
            torch.cat([part.deepstack for part in held], dim=1)[:, order],
            depth if last is None else torch.full_like(depth, last), int(depth.max()), length,
        )  # fmt: skip


@dataclass
class _Group:
    """Rows of one slot's reserve on their way through a layer."""

    slot: int
    reserve: Reserve
    rows: Tensor


class Recaller:
    """Runs dropped tokens through layers against a `SlotCache`. Reached by the attention function as `attend`."""

    def __init__(self, model: Model, cache: SlotCache, how: Recall, part: Part) -> None:
        self.model, self.cache, self.how, self.part = model, cache, how, part
        self.reserves: list[Reserve | None] = [None] * cache.rows
        self.groups: list[_Group] = []

    def admit(self, slot: int, held: Sequence[Held], length: int) -> None:
        """Take over what prefill dropped of a new sample; with recall="shadow" all of it gets keys and values."""
        dense = self.model.info.depth if self.how == "dense" else None
        self.reserves[slot] = Reserve.of(held, length, dense) if held else None
        if self.how == "shadow" and held:
            self.advance({slot: torch.arange(len(self._reserve(slot).depth))}, self.model.info.depth)

    def _reserve(self, slot: int) -> Reserve:
        reserve = self.reserves[slot]
        assert reserve is not None
        return reserve

    def fetch(self, visible: Tensor, slots: Sequence[int]) -> None:
        """Give keys and values in all layers to the tokens of these slots that are to be seen."""
        held = {slot: reserve for slot in slots if (reserve := self.reserves[slot]) is not None}
        wanted = {slot: torch.nonzero(visible[slot, reserve.column]).flatten().cpu() for slot, reserve in held.items()}
        self.advance(wanted, self.model.info.depth)

    def logits(self, layer: int, query: Tensor, cached: Tensor, slots: Sequence[int]) -> Tensor:
        """Logits [S, H, Nv] of queries [S, H, 1, d] over the dropped tokens of these slots, at a layer in progress.

        Tokens dropped before the layer are advanced to it and their keys are kept; those that have keys in the layer's
        cache already have their logits in `cached` [S, H, Nv].
        """
        out = torch.full_like(cached, -torch.inf)
        held = {slot: reserve for slot in slots if (reserve := self.reserves[slot]) is not None}
        every = {slot: torch.arange(len(reserve.depth)) for slot, reserve in held.items()}
        self.advance(every, layer)
        for slot, reserve in held.items():
            out[slot, :, reserve.column] = cached[slot][:, reserve.column]
            if reserve.watched is None:
                with self.part("overhead"):
                    reserve.watched = self._watched(layer, reserve)
            rows, keys = reserve.watched
            if len(rows):
                q = query[slot].float()
                with self.part("overhead"):
                    new = grouped(q[None], len(keys))[0] @ keys.float().transpose(1, 2)
                out[slot, :, reserve.column[rows]] = new.reshape(len(q), -1) * q.shape[-1] ** -0.5
                reserve.spent += 2 * q.numel() * len(rows)
        return out

    def _watched(self, layer: int, reserve: Reserve) -> tuple[Tensor, Tensor]:
        """The rows that are about to enter a layer, and their keys [Hkv, w, d] there."""
        d = self.model.dims
        rows = torch.nonzero(reserve.depth == layer).flatten().to(self.model.device)
        if not len(rows):
            return rows, reserve.hidden.new_zeros(d.kv_heads, 0, d.head_dim)
        reserve.spent += 2 * len(rows) * d.hidden * d.kv_heads * d.head_dim
        return rows, self.model.keys(layer, reserve.hidden[rows], reserve.positions[:, rows])

    def advance(self, wanted: dict[int, Tensor], to: int) -> None:
        """Run rows of the reserves through the layers before `to`, in one ragged pass per layer.

        A token attends to what its slot's cache holds of the prompt up to its own place (text, kept, brought back
        earlier, seen or not) and to its companions by the same rule; nothing that is cached changes.
        """
        for layer in range(to):
            self.groups = []
            for slot, rows in wanted.items():
                reserve = self._reserve(slot)
                now = rows[reserve.depth[rows] == layer]
                if len(now):
                    self.groups.append(_Group(slot, reserve, now.to(self.model.device)))
                    reserve.depth[now] = layer + 1
            if self.groups:
                self._layer(layer)

    def _layer(self, layer: int) -> None:
        positions = torch.cat([g.reserve.positions[:, g.rows] for g in self.groups], dim=1)
        packed = torch.cat([g.reserve.hidden[g.rows] for g in self.groups])
        # Rows in multiples of 8, as in decoding: on a CPU 1 or 3 rows would round differently from 8.
        fill = -len(packed) % 8
        packed = torch.nn.functional.pad(packed, (0, 0, 0, fill))
        rope = self.model.rope(torch.nn.functional.pad(positions, (0, fill))[:, None])
        with self.part("overhead"):
            out = self.model.layer(layer, packed[None], rope, self)[0]
        for group, hidden in zip(self.groups, out.split([*(len(g.rows) for g in self.groups), fill]), strict=False):
            reserve = group.reserve
            if layer < len(reserve.deepstack):
                hidden = hidden + reserve.deepstack[layer, group.rows]
            reserve.hidden[group.rows] = hidden
            reserve.spent += len(group.rows) * token_flops(self.model.dims)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of each slot's rows over its cache, into which their keys and values go first."""
        out, start = torch.zeros_like(query), 0
        for group in self.groups:
            rows, reserve = slice(start, start + len(group.rows)), group.reserve
            start = rows.stop
            index, positions = reserve.index[group.rows], reserve.positions[:, group.rows]
            self.cache.bring(
                layer, group.slot, key[0, :, rows], value[0, :, rows], reserve.column[group.rows], index, positions
            )  # fmt: skip
            reserve.entries += len(index)
            out[:, :, rows] = self._over_prompt(layer, group, query[:, :, rows], index)
        return out.transpose(1, 2)

    def _over_prompt(self, layer: int, group: _Group, query: Tensor, index: Tensor) -> Tensor:
        """[1, H, s, d] attention to the entries of the prompt up to each row's own place."""
        entries, slot = self.cache.layers[layer], group.slot
        prompt = torch.nonzero(entries.index[slot] < group.reserve.length).flatten()
        keys, values = entries.keys[slot][:, prompt], entries.values[slot][:, prompt]
        group.reserve.spent += 4 * query.numel() * len(prompt)
        blocks = []
        for rows in torch.arange(len(index), device=index.device).split(BLOCK):
            q = query[:, :, rows]
            mask = torch.zeros(len(rows), len(prompt), device=q.device)
            mask = mask.masked_fill(entries.index[slot, prompt] > index[rows, None], -torch.inf)
            logits = grouped(q, len(keys))[0].float() @ keys.float().transpose(1, 2) * q.shape[-1] ** -0.5
            weights = (logits.reshape(q.shape[1], len(rows), -1) + mask).softmax(-1).to(q.dtype)
            blocks.append((weights.reshape(len(keys), -1, len(prompt)) @ values).reshape(q.shape))
        return torch.cat(blocks, dim=2)

    def merge(self, slots: Sequence[int], kept: Tensor) -> None:
        """Give slots the token that stands for all kept ones: the mean of their keys and values in every layer from
        which on nothing but them is left."""
        for slot in slots:
            reserve = self.reserves[slot]
            if reserve is None or reserve.merged:
                continue
            reserve.merged = True
            for layer in range(reserve.bare, self.model.info.depth):
                reserve.entries += self.cache.bring_mean(layer, slot, kept[slot])
