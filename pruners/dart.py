"""DART: keep a few pivots, and the visual tokens that resemble them least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pruners.base import Moment, PrunerError
from pruners.budget import Budgeted, Layer, resolve_layer
from pruners.selection import Selection
from pruners.signals import Keys, Signal
from pruners.views import ModelInfo, View


@dataclass(frozen=True, kw_only=True)
class DART(Budgeted):
    """Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More (arXiv 2502.11494).

    At the entrance of layer K = 2 the pivots are the 4 visual tokens and the 4 text tokens after the last picture with
    the largest L1 norm of their keys in layer K - 1 (after RoPE, over all heads). One pivot after the other adds the t
    visual tokens still left whose hidden states, under the model's final norm, have the lowest cosine with its own.
    The image pivots and what was added go on in raster order: 4 + 8 t tokens with t = int(budget / 8), so "128" keeps
    132. No attention is needed.

    Stated by the paper: pivots and the least duplicated tokens. Of the official code: the key norm, 4 + 4, the final
    norm, t, and the order of the pivots. Inferred: every picture has its own budget; where there are fewer text tokens
    than text pivots, the others add their share. Position ids stay those of the full prompt, for the reply too.

    Attributes:
        layer: K. A fraction gives at least 2, as for FastV.
        image_pivots, text_pivots: how many there are.
        order: in which pivots add. The official code runs through list(set(...)) of their places in the sequence:
            "cpython" gives that order (hash order, see `set_order`), on any Python and without leaving the device;
            "ascending" is by place. The sets of kept tokens differ a little.
    """

    layer: Layer = "2/32"
    image_pivots: int = 4
    text_pivots: int = 4
    order: Literal["cpython", "ascending"] = "cpython"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_pivots < 1 or self.text_pivots < 0:
            raise PrunerError(f"at least one image pivot is needed, got {self.image_pivots} and {self.text_pivots}")

    def layers(self, depth: int) -> tuple[int, ...]:
        return (resolve_layer(self.layer, depth, least=1 if isinstance(self.layer, int) else 2),)

    def signals(self, model: ModelInfo) -> Sequence[Signal]:
        return (Keys(self.layers(model.depth)[0] - 1),)

    def count(self, n: int) -> int:
        budget = n * (self.keep or 0) if self.tokens is None else self.tokens
        return n if budget >= n else min(n, self.image_pivots + self.added(n))

    def added(self, n: int) -> int:
        """Tokens that all pivots add together, if so many are there."""
        pivots = self.image_pivots + self.text_pivots
        budget = (self.keep or 0) * n + 1e-9 if self.tokens is None else self.tokens
        return int(budget / pivots) * pivots

    def flops(self, model: ModelInfo, moment: Moment, n: int, width: int) -> int:
        return 2 * n * (self.image_pivots + self.text_pivots) * width if self.count(n) < n else 0

    def at_layer(self, view: View) -> Selection | None:
        n, length, after = len(view), len(view.hidden), view.sample.text_after
        if self.count(n) >= n:
            return None
        keys = Keys((view.layer or 0) - 1)
        text = torch.arange(length - after, length, device=view.index.device)
        image = largest(view[keys], self.image_pivots)
        pivots = torch.cat([view.index[image], text[largest(view.record(keys, text), self.text_pivots)]])
        pivots = pivots[set_order(pivots)] if self.order == "cpython" else pivots.sort().values
        visual, pivot = (view.final_norm(view.hidden[at]).float() for at in (view.index, pivots))
        cosines = visual @ pivot.T / visual.norm(dim=1, keepdim=True).clamp(min=1e-12)  # but for each pivot's length
        taken = torch.zeros(n, dtype=torch.bool, device=image.device).index_fill(0, image, True)
        total, sharing = self.added(n), len(pivots)
        for i, similar in enumerate(cosines.unbind(1)):
            adds = total // sharing + (i < total % sharing)
            fresh = similar.masked_fill(taken, torch.inf).argsort(stable=True)[:adds]
            taken = taken.index_fill(0, fresh, True)
        return Selection((~taken).int().argsort(stable=True)[: self.count(n)])


def largest(keys: Tensor, k: int) -> Tensor:
    """The tokens of keys [Hkv, n, d] with the k largest L1 norms over all heads, descending, ties to the lower index.

    Heads that repeat a key for a group of queries add to all norms alike.
    """
    return keys.float().abs().sum((0, 2)).argsort(descending=True, stable=True)[:k]


def set_order(values: Tensor) -> Tensor:
    """[m] indices that sort distinct values [m] >= 0 as CPython iterates over set([...]) of them.

    CPython's open addressing (Objects/setobject.c): a hash table of 8 slots, whose next size is the power of two above
    4 times the entries once 3/5 of it is taken; an entry goes to the first free slot of its probe sequence. Everything
    stays on the device: sizes follow from m alone.
    """
    m, device = len(values), values.device
    entries = torch.arange(m, device=device)
    size = 8
    probes, table = probe(values, size), torch.full((size,), m, device=device)
    for i in range(m):
        table = put(table, probes, entries[i : i + 1])
        if 5 * (i + 1) >= 3 * (size - 1):
            size, old = max(8, 1 << (4 * (i + 1)).bit_length()), inside(table, m, i + 1)
            probes, table = probe(values, size), torch.full((size,), m, device=device)
            for entry in old.split(1):
                table = put(table, probes, entry)
    return inside(table, m, m)


def probe(values: Tensor, size: int) -> Tensor:
    """[m, s] slots of a table that CPython tries for each value: runs of ten neighbours, or a single one at the end of
    the table, from starting points that the value's higher bits scatter. Long enough to find a free slot among m."""
    slot, rest, runs = values & (size - 1), values, []
    for _ in range(len(values) + 6):  # the higher bits of places in a sequence are used up after 5 starts
        run = slot[:, None] + torch.arange(10, device=values.device)
        runs.append(torch.where(run[:, -1:] < size, run, slot[:, None]))
        rest = rest >> 5
        slot = (5 * slot + 1 + rest) & (size - 1)
    return torch.cat(runs, dim=1)


def put(table: Tensor, probes: Tensor, entry: Tensor) -> Tensor:
    """The table with an entry [1] in the first free slot of its probe sequence; m marks free slots."""
    slots = probes.index_select(0, entry)[0]
    free = table[slots] == len(probes)
    first = torch.where(free, torch.arange(len(slots), device=slots.device), len(slots)).amin(0, keepdim=True)
    return table.index_copy(0, slots.index_select(0, first), entry)


def inside(table: Tensor, m: int, k: int) -> Tensor:
    """The k entries of a table in the order of their slots."""
    return table[(table == m).int().argsort(stable=True)[:k]]
