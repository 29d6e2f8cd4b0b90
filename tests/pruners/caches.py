"""A layer's cache as methods see it, made of random numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from harness.models.known import QWEN
from pruners import Sample, VisualLayout
from pruners.signals import Signal
from pruners.views import CacheView

HEADS, WIDTH = 2, 4
MODEL = QWEN


def cache_view(
    marks: str, record: Callable[[Signal], Tensor], seed: int = 0, charged: list[int] | None = None
) -> CacheView:  # fmt: skip
    """Entries of a prompt, one letter each: "v" for a visual token of one picture, "t" for text."""
    visual = torch.tensor([i for i, mark in enumerate(marks) if mark == "v"], dtype=torch.long)
    column = torch.full((len(marks),), -2)
    column[visual] = torch.arange(len(visual))
    rng = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, HEADS, len(marks), WIDTH, generator=rng)
    grids: Sequence[tuple[int, int]] = [(1, len(visual))] if len(visual) else []
    sample = Sample(
        "s", VisualLayout.of_grids(grids), visual, len(marks), len(marks) - 1 - marks.rfind("v"), keys[0], "Which?", (),
        lambda seed: torch.Generator().manual_seed(seed),
    )  # fmt: skip
    charge = (charged if charged is not None else []).append
    return CacheView(
        sample, 0, keys, values, column, torch.arange(len(marks)), {}, lambda signal, _: record(signal), charge
    )
