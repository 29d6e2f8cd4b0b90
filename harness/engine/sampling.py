"""Choosing tokens. Results depend on a slot's own sample only, never on who shares the batch."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from harness.engine.trace import Decoding


def choose(
    logits: Tensor, decoding: Decoding, seen: Tensor | None, written: Tensor | None, draws: list[random.Random]
) -> Tensor:
    """Next token of every row [S] from logits [S, V], float32.

    Penalties, temperature, top-k and top-p in the order of transformers' processors; then one uniform number per row,
    from the row's own generator, is looked up in the cumulative distribution over tokens in order of probability.

    Args:
        seen, written: [S, V] which tokens occur in prompt or reply (repetition penalty), in the reply (presence).
    """
    if decoding.repetition_penalty != 1 and seen is not None:
        scaled = torch.where(logits < 0, logits * decoding.repetition_penalty, logits / decoding.repetition_penalty)
        logits = torch.where(seen, scaled, logits)
    if decoding.presence_penalty and written is not None:
        logits = logits - decoding.presence_penalty * written
    if decoding.temperature == 0:
        return logits.argmax(-1)
    ordered, tokens = (logits / decoding.temperature).sort(stable=True, dim=-1, descending=True)
    if decoding.top_k:
        ordered[:, decoding.top_k :] = -torch.inf
    shares = ordered.softmax(-1)
    before = shares.cumsum(-1) - shares
    shares = shares.masked_fill(before >= decoding.top_p, 0.0)
    total = shares.cumsum(-1)
    uniform = torch.tensor([[draw.random()] for draw in draws], device=logits.device) * total[:, -1:]
    return tokens.gather(-1, torch.searchsorted(total, uniform, right=True).clamp(max=tokens.shape[-1] - 1))[:, 0]
