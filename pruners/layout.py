"""Where every visual token of a prompt comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

PATCH, NEWLINE, THUMBNAIL, CLS = range(4)
"""Kinds of visual token: image content, end of a row, overview of the whole picture, class token."""

Scope = Literal["crop", "picture", "prompt"]


@dataclass(frozen=True)
class VisualLayout:
    """One entry per visual token, all int64 [N], on the CPU.

    Attributes:
        picture: number of the picture in the prompt, from 0.
        crop: number of the crop inside the picture, from 0 (0 for models without crops).
        row, column: place in the grid of the crop; -1 for tokens without a place.
        kind: PATCH, NEWLINE, THUMBNAIL or CLS.
        grid: per (picture, crop) the (rows, columns) of its grid.
    """

    picture: Tensor
    crop: Tensor
    row: Tensor
    column: Tensor
    kind: Tensor
    grid: dict[tuple[int, int], tuple[int, int]]

    def __len__(self) -> int:
        return self.picture.shape[0]

    @classmethod
    def of_grids(cls, grids: list[tuple[int, int]]) -> VisualLayout:
        """Layout of pictures without crops: one raster grid (rows, columns) each."""
        rows = [torch.arange(h).repeat_interleave(w) for h, w in grids]
        columns = [torch.arange(w).repeat(h) for h, w in grids]
        picture = [torch.full((h * w,), i) for i, (h, w) in enumerate(grids)]
        cat = [torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long) for parts in (picture, rows, columns)]
        zero = torch.zeros_like(cat[0])
        return cls(cat[0], zero, cat[1], cat[2], zero.clone(), {(i, 0): grid for i, grid in enumerate(grids)})

    def inside(self, picture: int, top: float, left: float, bottom: float, right: float) -> Tensor:
        """Indices of the PATCH tokens whose area overlaps a box given in fractions 0..1 of the picture."""
        found = []
        for (number, crop), (rows, columns) in self.grid.items():
            if number != picture:
                continue
            mine = (self.picture == picture) & (self.crop == crop) & (self.kind == PATCH)
            tall = (self.row < bottom * rows - 1e-6) & (self.row + 1 > top * rows + 1e-6)
            wide = (self.column < right * columns - 1e-6) & (self.column + 1 > left * columns + 1e-6)
            found.append(torch.nonzero(mine & tall & wide).flatten())
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.long)
