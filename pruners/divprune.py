"""DivPrune: keep the visual tokens that are farthest from each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruners.base import Moment
from pruners.budget import BeforeLLM
from pruners.selection import Selection
from pruners.views import ModelInfo, View


@dataclass(frozen=True, kw_only=True)
class DivPrune(BeforeLLM):
    """Diversity-based Visual Token Pruning for Large Multimodal Models (arXiv 2503.02175).

    Max-min diversity of the projected tokens under D = 1 - cosine, solved greedily: the first token is the one farthest
    from its nearest neighbour, each further one is the farthest from all that were picked. k = round(keep * N). Text
    plays no part. Float32: in half precision about a tenth of the picks differ.

    Stated by the paper: the objective, the greedy solution, features after the projector. Of the official code: ties go
    to the lower index; picked tokens are not masked, so that a picture with fewer distinct tokens than the budget
    repeats one; the kept tokens are sorted before use (the paper's tables came from unsorted ones). The paper prunes
    prompts of one picture; here every picture has its own budget. Position ids: see `BeforeLLM`.
    """

    may_repeat: ClassVar[bool] = True

    def at_embed(self, view: View) -> Selection | None:
        k = self.count(len(view))
        if k >= len(view):
            return None
        return Selection(order(view.features, k).sort().values, positions=self.positions)

    def flops(self, model: ModelInfo, moment: Moment, n: int, width: int) -> int:
        return 2 * n * n * width if self.count(n) < n else 0


def order(features: Tensor, k: int) -> Tensor:
    """The first k picks of features [n, D], n > 1, in greedy order; no value leaves the device."""
    return greedy(distances(features), k)


def distances(features: Tensor) -> Tensor:
    """1 - cosine [n, n] of features [n, D], float32 and symmetric."""
    unit = torch.nn.functional.normalize(features.float(), dim=1)
    distance = 1 - unit @ unit.T
    # Two tokens that are each other's nearest neighbour tie for the first pick, but for rounding: products are not
    # exactly symmetric.
    return torch.minimum(distance, distance.T)


def greedy(distance: Tensor, k: int) -> Tensor:
    """The first k picks by distances [n, n]."""
    # Smallest in a column is a token's distance to itself, about 0, so the second is that to its nearest neighbour.
    nearest = distance.topk(2, dim=0, largest=False).values[1]
    picks = [nearest.argmax(0, keepdim=True)]
    nearest = distance.index_select(0, picks[0])[0]
    for _ in range(k - 1):
        pick = nearest.argmax(0, keepdim=True)
        nearest = torch.minimum(nearest, distance.index_select(0, pick)[0])
        picks.append(pick)
    return torch.cat(picks)
