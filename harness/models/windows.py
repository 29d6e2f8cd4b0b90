"""Attention inside windows of a picture."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Windows:
    """Which units of a tower see each other; windows of the same size stand together, so that each size is one batch.

    Attributes:
        window: [n] the window of every unit.
        counts: units in every window.
    """

    window: Tensor
    counts: list[int]

    @classmethod
    def of_grid(cls, rows: int, columns: int, side: int, device: torch.device) -> Windows:
        """Windows of `side` x `side` units in raster order, those at the right and the bottom cut off."""
        row, column = (torch.arange(n, device=device) // side for n in (rows, columns))
        heights, widths = ([min(side, n - i) for i in range(0, n, side)] for n in (rows, columns))
        return cls((row[:, None] * len(widths) + column).flatten(), [h * w for h in heights for w in widths])

    def following(self, source: Tensor) -> Windows:
        """Windows of the units that continue units `source` [k]. Reads how many are left in each from the device."""
        if source.is_meta:  # no values: as if every window had lost the same share
            ends = [end * len(source) // len(self.window) for end in accumulate(self.counts, initial=0)]
            return Windows(self.window[source], [b - a for a, b in pairwise(ends)])
        window = self.window[source]
        return Windows(window, self._count(window).tolist())

    @property
    def batches(self) -> list[tuple[int, int]]:
        """(windows, units in each), in the order of `order`."""
        return [(many, units) for units, many in sorted(Counter(self.counts).items()) if units]

    @cached_property
    @torch.inference_mode(False)  # it may serve outside of it later
    def order(self) -> Tensor:
        """[n] the units by size of their window, then window."""
        return (self._count(self.window)[self.window] * len(self.counts) + self.window).argsort(stable=True)

    @cached_property
    @torch.inference_mode(False)
    def back(self) -> Tensor:
        """[n] where each unit stands in `order`."""
        return self.order.argsort()

    def split(self, x: Tensor) -> list[Tensor]:
        """[H, P, d] of all tower tokens -> [H, windows, tokens in each, d] of every batch."""
        rows = x.unflatten(1, (len(self.window), -1))[:, self.order]
        parts = rows.split([many * units for many, units in self.batches], dim=1)
        return [
            part.unflatten(1, (many, units)).flatten(2, 3)
            for part, (many, units) in zip(parts, self.batches, strict=True)
        ]

    def join(self, parts: list[Tensor]) -> Tensor:
        """The inverse of `split`."""
        rows = torch.cat([part.flatten(1, 2) for part in parts], dim=1)
        joined: Tensor = rows.unflatten(1, (len(self.window), -1))[:, self.back].flatten(1, 2)
        return joined

    def _count(self, window: Tensor) -> Tensor:
        return window.new_zeros(len(self.counts)).index_add(0, window, torch.ones_like(window))
