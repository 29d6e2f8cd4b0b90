"""HoloV: every strip of the picture gets a budget by its attention, and spends it on its best tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruners.base import PrunerError
from pruners.selection import Selection, Weights
from pruners.tower import TowerScored
from pruners.views import View


@dataclass(frozen=True, kw_only=True)
class HoloV(TowerScored):
    """Don't Just Chase "Highlighted Tokens" in MLLMs: Revisiting Visual Holistic Context Retention (arXiv 2510.02912).

    The n tokens of a picture, crop after crop, are cut into P strips of neighbouring tokens in raster order (the first
    n % P are one longer). Strip c with mean attention m_c gets floor(k * m_c / sum m) of the k = round(keep * n)
    tokens; what is left over goes, one each, to the strips of largest mean. A strip keeps its tokens of highest
    attention: the class token's in the tower layer whose output is projected, mean over heads, and the attention
    received where there is no class token (Qwen3-VL).

    Stated by the paper: a budget for each crop of the picture, attention and the variance of similarities in its score.
    Of the official code: strips instead of square crops; the variance is scaled to the mean of the strip's attention,
    so that every score grows by the same factor and nothing changes (it is not computed here); tokens go on strip by
    strip, in descending order of attention; a strip that is given as much as it holds, or more, keeps all of it in its
    old order, and the surplus becomes zero rows at the end, which have the position ids of the picture's last token;
    the number of strips is that of its port to Qwen2.5-VL (LLaVA's has 16 at 64 tokens). That port gives scores to
    other tokens than theirs, as it forgets the order of windows; not so here. Inferred: InternVL as LLaVA. Position
    ids: see `BeforeLLM`.

    Attributes:
        strips: P; the default max(1, floor(1024 / 576 * n / k)) is 16, 8 and 5 at 64, 128 and 192 of 576 tokens.
        repaired: the surplus goes to the tokens of highest attention that are left, and all go on in raster order.
    """

    may_pad: ClassVar[bool] = True
    strips: int | None = None
    repaired: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.strips is not None and self.strips < 1:
            raise PrunerError(f"strips must be at least 1, got {self.strips}")

    def at_embed(self, view: View) -> Selection | None:
        n, k = len(view), self.count(len(view))
        if k >= n:
            return None
        strips = max(1, 16 * n // (9 * k)) if self.strips is None else self.strips
        source = spread(view[self.attention], min(strips, n), k, self.repaired)
        if self.repaired:
            return Selection(source, positions=self.positions)
        rows = Weights(torch.arange(k, device=source.device), source.clamp(min=0), (source >= 0).float())
        ids = view.positions[:, view.index[source]]  # -1 is the last token, as in the official code
        return Selection(source, rows, ids if self.positions == "keep" else self.positions)


def spread(scores: Tensor, strips: int, k: int, repaired: bool) -> Tensor:
    """The k < n tokens of scores [n] that `strips` <= n strips keep; -1 for what they have no token for."""
    size, longer = divmod(len(scores), strips)
    strip = torch.arange(strips, device=scores.device)[:, None]
    place = torch.arange(size + 1, device=scores.device)
    exists = place < size + (strip < longer)  # [P, size + 1]
    token = (strip * size + strip.clamp(max=longer) + place).clamp(max=len(scores) - 1)
    score = torch.where(exists, scores.float()[token], -torch.inf)
    quota = shares(torch.where(exists, score, 0).sum(1) / exists.sum(1), k)
    score, best = score.sort(dim=1, descending=True, stable=True)
    if not repaired:  # strips that keep all their tokens keep them as they are
        best = torch.where((quota >= exists.sum(1))[:, None], place, best)
    rank = torch.where(exists & (place < quota[:, None]), torch.inf, score if repaired else -torch.inf).flatten()
    chosen = rank.argsort(descending=True, stable=True)[:k]
    source = token.gather(1, best).flatten()[chosen]
    return source.sort().values if repaired else torch.where(rank[chosen] > 0, source, -1)


def shares(means: Tensor, k: int) -> Tensor:
    """k tokens split among strips as means [P]: rounded down, then one more for each of the largest."""
    whole = (means / means.sum() * k).floor()
    rank = means.argsort(descending=True, stable=True).argsort()
    return whole + (rank < k - whole.sum())
