"""Recording of declared language-model signals during prefill."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.engine.segment import Segment
from pruners.base import PrunerError
from pruners.signals import Attention, Hidden, Keys, Signal, Sparsity, TowerAttention, Values
from pruners.views import State

BLOCK = 256
"""Query rows per block: no [H, n, n] tensor exists."""


@dataclass
class Record:
    """What was recorded for one sample and method; every value with the `Segment.ids` of its token axis."""

    values: dict[Signal, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def read(self, signal: Signal, segment: Segment, places: Tensor | None) -> Tensor:
        """A recorded value, restricted to the tokens at these places of the current sequence (None: all)."""
        if signal not in self.values:
            raise PrunerError(f"{signal} was read but not declared, or its layer has not run yet")
        value, recorded = self.values[signal]
        if places is None or isinstance(signal, Sparsity) or (isinstance(signal, Attention) and signal.keys == "all"):
            return value
        if recorded is not segment.ids:  # tokens have left since
            order = recorded.argsort()
            places = order[torch.searchsorted(recorded[order], segment.ids[places])]
        return value.index_select(token_axis(signal), places)


def token_axis(signal: Signal) -> int:
    """The axis of a recorded value that counts tokens."""
    return -1 if isinstance(signal, Attention | TowerAttention) else -2


def record_layer(
    signals: tuple[Signal, ...],
    layer: int,
    segment: Segment,
    state: State,
    record: Record,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
) -> int:
    """Record what is declared for `layer` from its q [H, l, d], k, v [Hkv, l, d] and what methods add to its logits
    [l, l]; returns the FLOPs spent."""
    cost = 0
    for signal in signals:
        if getattr(signal, "layer", None) != layer:
            continue
        if isinstance(signal, Attention | Sparsity):
            rows = attention_rows(signal, segment, state)
            blocks = attention_blocks(q, k, rows, bias)
            value = (
                reduced_attention(signal, blocks, len(rows))
                if isinstance(signal, Attention)
                else sparsity(signal, blocks)
            )
            record.values[signal] = (value, segment.ids)
            cost += 2 * q.shape[0] * q.shape[2] * len(rows) * k.shape[1]
        elif isinstance(signal, Keys):
            record.values[signal] = (k, segment.ids)
        elif isinstance(signal, Values):
            record.values[signal] = (v, segment.ids)
        elif isinstance(signal, Hidden):
            record.values[signal] = (segment.hidden, segment.ids)
    return cost


def attention_rows(signal: Attention | Sparsity, segment: Segment, state: State) -> Tensor:
    """Places in the current sequence of the query rows that a signal asks for."""
    last, device = len(segment) - 1, segment.visual.device
    if signal.rows == "last":
        return torch.arange(last, last + 1, device=device)
    if signal.rows == "all":
        return torch.arange(last + 1, device=device)
    if signal.rows == "visual":
        return segment.visual
    if signal.rows == "text":  # after the last picture; text rows never leave, so their number is known
        return segment.text[len(segment.text) - segment.sample.text_after :]
    if signal.rows not in state:
        raise PrunerError(f'rows="{signal.rows}" is neither last, text, visual, all nor an entry of the state')
    return torch.searchsorted(segment.index, state[signal.rows])


Blocks = Iterator[tuple[Tensor, Tensor]]


def attention_blocks(q: Tensor, k: Tensor, rows: Tensor, bias: Tensor | None = None) -> Blocks:
    """Causal attention weights [H, r, l] of blocks of `rows`, float32, each with its mask [r, l] of future keys.

    `bias` [l, l] is what methods add to the logits.
    """
    heads, group = k.shape[0], q.shape[0] // k.shape[0]
    keys, places = k.float(), torch.arange(k.shape[1], device=k.device)
    for part in rows.split(BLOCK):
        logits = q[:, part].float().reshape(heads, group * len(part), q.shape[-1]) @ keys.transpose(1, 2)
        logits = logits.reshape(heads * group, len(part), k.shape[1]) * q.shape[-1] ** -0.5
        future = places > part[:, None]
        logits = logits if bias is None else logits + bias[part].float()
        yield logits.masked_fill(future, -torch.inf).softmax(-1), future


def sparsity(signal: Sparsity, parts: Blocks) -> Tensor:
    """[] mean over heads of the share of small causal weights."""
    small, total = torch.zeros(()), torch.zeros(())
    for weights, future in parts:
        few = (weights < signal.threshold * weights.amax(-1, keepdim=True)) & ~future
        small, total = small.to(few.device) + few.sum((1, 2)), total.to(few.device) + (~future).sum()
    return (small / total).mean()


def reduced_attention(signal: Attention, parts: Blocks, rows: int) -> Tensor:
    """Causal attention weights of so many rows, float32, reduced over heads and rows block by block."""
    blocks = [_reduce(weights, signal.head, 0) for weights, _ in parts]
    if signal.row == "none":
        return torch.cat(blocks, dim=-2)
    summed = torch.stack([_reduce(block, "max" if signal.row == "max" else "sum", -2) for block in blocks])
    if signal.row == "max":
        return summed.amax(0)
    return summed.sum(0) / (rows if signal.row == "mean" else 1)


def _reduce(x: Tensor, how: str, axis: int) -> Tensor:
    if how == "none":
        return x
    return x.amax(axis) if how == "max" else x.mean(axis) if how == "mean" else x.sum(axis)
