"""G-Prune: keep the tokens that gather most when importance flows along the similarities of a picture's tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pruners.base import PrunerError
from pruners.budget import BeforeLLM
from pruners.layout import THUMBNAIL
from pruners.selection import Selection
from pruners.views import View

UNLINKED = -5000.0
"""Logit of two tokens without a link; finite, so that a token like no other, not even itself, is linked to all."""


@dataclass(frozen=True, kw_only=True)
class GPrune(BeforeLLM):
    """What Kind of Visual Tokens Do We Need? Training-free Visual Token Pruning from the Perspective of Graph.

    arXiv 2501.02268. Tokens x_i, after the projector, are nodes, linked where cos(x_i, x_j) >= `similarity`:

        A_ij = softmax_j(cos(x_i, x_j) / temperature) over the links of i,   s = |x|^T A^iterations,   s_j / degree_j

    The overview of a picture and its other crops are two graphs; of each, the int(keep * n) highest go on, ties to the
    lower index. Tokens that end a row stay and cost no budget. Text plays no part.

    Stated by the paper: the graph, the flow, LLaVA-NeXT. Of the official code: norms at the start, degrees at the end
    (links that a softmax in float32 does not lose), all numbers, and position ids: kept tokens keep theirs, on every
    model. Inferred: all tiles of InternVL are one graph, a picture without an overview too; at least one token of each;
    `tokens` is split in proportion. Here A is applied to a row of n numbers, which costs less than its power.

    Attributes:
        similarity: lowest cosine of a link, in (0, 1].
        temperature: of the softmax.
        iterations: steps of the flow.
    """

    newlines: ClassVar[Literal["drop", "keep", "see"]] = "keep"
    positions: Literal["auto", "keep", "renumber"] = "keep"
    similarity: float = 0.5
    temperature: float = 0.03
    iterations: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.similarity <= 1 and self.temperature > 0 and self.iterations >= 0):
            raise PrunerError("needs similarity in (0, 1], temperature > 0 and iterations >= 0")

    def count(self, n: int) -> int:
        return min(n, max(1, self.tokens if self.tokens is not None else int((self.keep or 1.0) * n)))

    def counts(self, sizes: list[int]) -> list[int]:
        """Tokens to keep of the parts of a picture, one or two."""
        if self.tokens is None:
            return [self.count(n) for n in sizes]
        k = self.count(sum(sizes))
        first = k * sizes[0] // sum(sizes)
        return [first, k - first][: len(sizes)]

    def at_embed(self, view: View) -> Selection | None:
        if self.count(len(view)) >= len(view):
            return None
        kept, features, parts = [], view.features, graphs(view)
        for part, k in zip(parts, self.counts([len(part) for part in parts]), strict=True):
            view.charge(2 * len(part) ** 2 * (features.shape[1] + self.iterations))
            scores = gathered(features[part], self.similarity, self.temperature, self.iterations)
            kept.append(part[scores.argsort(descending=True, stable=True)[:k]])
        return Selection(torch.cat(kept).sort().values, positions=self.positions)


def graphs(view: View) -> list[Tensor]:
    """Which tokens of a picture's view are of its overview, and which are not, as far as there are any."""
    layout = view.sample.layout
    whole = layout.crop[(layout.picture == (view.picture or 0)) & (layout.kind == THUMBNAIL)][:1].tolist()  # on the CPU
    first = [part for (_, crop), part in view.crops.items() if crop in whole]
    others = [part for (_, crop), part in view.crops.items() if crop not in whole]
    return [torch.cat(parts).sort().values for parts in (first, others) if parts] or view.parts


def gathered(features: Tensor, similarity: float, temperature: float, iterations: int) -> Tensor:
    """What the nodes of features [n, D] have gathered after some iterations, by their degrees: [n], float32."""
    x = features.float()
    unit = normalize(x, dim=1)
    cosine = unit @ unit.T
    links = torch.where(cosine < similarity, UNLINKED, cosine / temperature).softmax(1)
    flow: Tensor = x.norm(dim=1)
    for _ in range(iterations):
        flow = flow @ links
    return flow / (links > 0).sum(1)
