"""GlobalCom2: the overview of a picture says how many tokens each of its crops keeps, and helps to say which."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pruners.base import PrunerError
from pruners.layout import THUMBNAIL, VisualLayout
from pruners.selection import Selection, keep_top
from pruners.signals import TowerAttention
from pruners.tower import TowerScored
from pruners.views import View
from pruners.vscan import window_rank


@dataclass(frozen=True, kw_only=True)
class GlobalCom2(TowerScored):
    """Global Compression Commander: Plug-and-Play Inference Acceleration for High-Resolution Large Vision-Language
    Models (arXiv 2501.05179).

    Scores a are the class token's attention to the tokens of its crop. With R the kept share, g_c the sum of a over the
    part of the overview that shows crop c of C, and n_c its number of tokens, the overview keeps its int(R n) highest,

        k_c = int(n_c min(1, R (1 + softmax_c(g_c / tau) - 1 / C)))
        s_i = a_i / |a|_2 + b_i / |b|_2  over crop c,   b the overview's a, bilinearly interpolated at the tokens of c

    and crop c its k_c highest s. Text plays no part; nothing is merged.

    Stated by the paper: shares by the overview with a temperature, and both scores in equal parts. Of the official
    code, for LLaVA-NeXT: scores are products before the softmax, mean over heads, in the last tower layer; tau = 10;
    the norms; the parts of the overview, whose sides are rounded down but for the last; newline tokens stay; the
    overview's tokens stand in descending order of their scores. It treats places in a crop that lost its padding as
    places in the whole one, which moves rows of tokens; not so here. Inferred: InternVL as LLaVA-NeXT; a picture
    without an overview, which the code leaves whole, keeps its int(R n) highest a; without a class token (Qwen-VL, one
    crop) these are the products with the queries of all tokens. There were no recorded outputs of the official code to
    compare with. Position ids: see `BeforeLLM`. The counts are read from the device.

    Attributes:
        keep, tokens: R, or R n of a picture; rounding loses a few, as in the official code.
        temperature: tau.
        repaired: the overview's tokens go on in raster order.
    """

    newlines: ClassVar[Literal["drop", "keep", "see"]] = "keep"
    layer: int | None = -1
    temperature: float = 10.0
    repaired: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise PrunerError(f"temperature must be positive, got {self.temperature}")

    @property
    def attention(self) -> TowerAttention:
        return replace(super().attention, softmax=False)

    def share(self, n: int) -> float:
        """R for a picture of n tokens."""
        return min(1.0, self.tokens / n if self.tokens is not None else self.keep or 1.0)

    def count(self, n: int) -> int:
        """Tokens that n without an overview keep."""
        return max(1, int(self.share(n) * n + 1e-9))

    def at_embed(self, view: View) -> Selection | None:
        n, layout, picture = len(view), view.sample.layout, view.picture or 0
        share = self.share(n)
        if share >= 1:
            return None
        scores = view[self.attention].float()
        overview = layout.crop[(layout.picture == picture) & (layout.kind == THUMBNAIL)][:1].tolist()  # on the CPU
        if not overview:
            return Selection(keep_top(scores, self.count(n)).source, positions=self.positions)
        grids, lies, areas = (x.to(scores.device) for x in tables(layout, picture, overview[0]))
        crop, row, column = (x.to(scores.device)[view.token] for x in (layout.crop, layout.row, layout.column))
        whole, (height, width) = crop == overview[0], layout.grid[picture, overview[0]]
        place = torch.where(whole, row * width + column, height * width)
        seen = scores.new_zeros(height * width + 1).scatter(0, place, scores)[:-1]
        k = self._counts(seen, lies, per_crop(torch.ones_like(scores), crop, len(grids)), overview[0], share)
        inside = (torch.stack([row, column], dim=1) + 0.5) / grids[crop]
        at = areas[crop, :2] + inside * (areas[crop, 2:] - areas[crop, :2])
        both = sum(
            x / per_crop(x.square(), crop, len(grids)).sqrt()[crop]
            for x in (scores, interpolated(seen.view(height, width), at))
        )
        rank = window_rank(crop, torch.where(whole, scores, both))
        kept, every = rank < k[crop], torch.arange(n, device=scores.device)
        order = every if self.repaired else torch.where(whole, whole.int().argmax() + rank, every)
        left = int(share * n) if kept.is_meta else int(kept.sum())  # without values: as if nothing were lost
        return Selection(torch.where(kept, order, order + n).argsort()[:left], positions=self.positions)

    def _counts(self, seen: Tensor, lies: Tensor, sizes: Tensor, overview: int, share: float) -> Tensor:
        """[C] tokens kept of the crops' `sizes` [C], from the overview's scores [m] and the crops [m] they lie in."""
        sums = per_crop(seen.double(), lies, len(sizes))
        sums[overview] = -torch.inf
        lean = (sums / self.temperature).softmax(0) - 1 / (len(sizes) - 1)
        lean[overview] = 0
        k = (sizes * (share * (1 + lean)).clamp(max=1) + 1e-9).floor()
        k[overview] = k[overview].clamp(min=1)
        return k


def per_crop(values: Tensor, crop: Tensor, crops: int) -> Tensor:
    """[C] sums of values [n] over the crops [n] that they belong to."""
    return values.new_zeros(crops).index_add(0, crop, values)


def tables(layout: VisualLayout, picture: int, overview: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of a picture's crops: rows and columns [C, 2]; the crop [m] that each of the overview's tokens lies in; what
    they show [C, 4]. On the CPU."""
    grids = [grid for (number, _), grid in layout.grid.items() if number == picture]
    areas = [area for (number, _), area in layout.area.items() if number == picture]
    tops, lefts = (sorted({area[axis] for c, area in enumerate(areas) if c != overview}) for axis in (0, 1))
    crop = {area[:2]: c for c, area in enumerate(areas) if c != overview}
    height, width = grids[overview]
    row, column = (
        [starts[min(i // max(side // len(starts), 1), len(starts) - 1)] for i in range(side)]
        for side, starts in ((height, tops), (width, lefts))
    )
    return torch.tensor(grids), torch.tensor([crop[top, left] for top in row for left in column]), torch.tensor(areas)


def interpolated(grid: Tensor, at: Tensor) -> Tensor:
    """[n] bilinear values of grid [H, W] at places [n, 2], fractions of its height and width."""
    size = torch.tensor(grid.shape, device="cpu").to(grid.device)
    place = (at * size - 0.5).clamp(min=0)
    low = place.long().minimum(size - 1)
    high, share = (low + 1).minimum(size - 1), place - low
    rows = [grid[low[:, 0], x] * (1 - share[:, 0]) + grid[high[:, 0], x] * share[:, 0] for x in (low[:, 1], high[:, 1])]
    return rows[0] * (1 - share[:, 1]) + rows[1] * share[:, 1]
