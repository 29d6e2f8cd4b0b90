"""What step methods share: ranking all slots at once, and random numbers that belong to a sample."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pruners.views import State, View

DRAWS = 4096
"""Random numbers per sample; longer replies go through them again."""


def highest(score: Tensor, count: Tensor) -> Tensor:
    """[S, n] which columns have the `count` [S] highest scores of their slot, ties to the lower index."""
    order = score.argsort(dim=1, descending=True, stable=True)
    among = torch.arange(score.shape[1], device=score.device) < count[:, None]
    return torch.zeros_like(among).scatter(1, order, among)


def draws(view: View, seed: int) -> State:
    """Random numbers of one sample, for `drawn`."""
    return {"draws": torch.rand(DRAWS, generator=view.sample.generator(seed)).to(view.index.device)}


def drawn(state: Mapping[str, Tensor], step: Tensor) -> Tensor:
    """[S] this step's random number of every slot."""
    return state["draws"].gather(1, (step % DRAWS)[:, None])[:, 0]
