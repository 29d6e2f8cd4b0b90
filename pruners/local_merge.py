"""Merging of windows of neighbouring tokens that look alike (MustDrop)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pruners.selection import Selection, Weights


def merge_windows(
    x: Tensor, row: Tensor, column: Tensor, grid: tuple[int, int], side: int, least: float
) -> Selection | None:
    """Means of the windows of side x side tokens whose mean pairwise cosine is `least` or more, then the other tokens.

    Windows come by decreasing similarity, ties in raster order; the others in theirs. What lies beyond the last whole
    window of the grid, or in a window that lacks a token, is left alone. A mean continues the token in the middle of
    its window. How many windows merge is read from the device; without values, on `meta`, none does.

    Args:
        x: [n, D] tokens.
        row, column: [n] where each lies in a grid of `grid` rows and columns at most.
        side: at least 2.
    """
    n, size = len(x), side * side
    down, across = (-(-length // side) for length in grid)
    slot = ((row // side * across + column // side) * side + row % side) * side + column % side
    member = row.new_full((down * across * size,), -1).scatter(0, slot, torch.arange(n, device=row.device))
    member = member.view(-1, size)
    units = normalize(x.float(), dim=1)[member.clamp(min=0)]
    cosine = (units.sum(1).square().sum(1) - units.square().sum((1, 2))) / (size * (size - 1))
    alike = (member >= 0).all(1) & (cosine >= least)
    count = 0 if alike.is_meta else int(alike.sum())
    if not count:
        return None
    merged = member[cosine.masked_fill(~alike, -torch.inf).argsort(descending=True, stable=True)[:count]]
    gone = torch.zeros_like(row).index_fill(0, merged.flatten(), 1)
    rest = gone.argsort(stable=True)[: n - count * size]
    middle = (side // 2) * (side + 1)
    made = torch.arange(count + len(rest), device=row.device)
    weights = Weights(
        rows=torch.cat([made[:count].repeat_interleave(size), made[count:]]),
        cols=torch.cat([merged.flatten(), rest]),
        values=torch.cat([cosine.new_full((count * size,), 1 / size), cosine.new_ones(len(rest))]),
    )
    return Selection(torch.cat([merged[:, middle], rest]), weights)
