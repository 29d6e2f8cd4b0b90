"""How much of the regions that an answer needs each token of a reply could read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.engine.prefill import Prefilled


@dataclass
class Evidence:
    """Follows one sample whose benchmark names the needed regions.

    Attributes:
        regions: [R, Nv] the weight of each visual token in the mean over a region's tokens.
        runs: [(characters of the reply so far, share of each region that is readable)], a new entry when it changes.
            A share is the mean over layers and tokens of the region.
    """

    regions: Tensor
    runs: list[tuple[int, list[float]]] = field(default_factory=list)

    @classmethod
    def of(cls, done: Prefilled) -> Evidence | None:
        """What prefill left; None if nothing is known to be needed."""
        sample = done.segment.sample
        if not sample.needed or done.segment.hidden.is_meta:
            return None
        shows, device = sample.layout.shows(sample.needed), done.segment.visual.device
        found = cls((shows / shows.sum(1, keepdim=True).clamp(min=1)).to(device))
        there = torch.zeros(done.segment.width + 1, device=device)
        alike = Counter(id(layer.column) for layer in done.cache)  # layers between which nothing left share theirs
        for columns in {id(layer.column): layer.column for layer in done.cache}.values():
            heads = columns if columns.ndim == 2 else columns[None]
            for column in heads:  # text goes to the last place, which no region has
                share = alike[id(columns)] / len(heads)
                there += torch.zeros_like(there).index_fill(0, column.clamp(min=-1) % len(there), share)
        found.note(lambda: 0, there / len(done.cache))
        return found

    def note(self, characters: Callable[[], int], seen: Tensor) -> None:
        """Add what the next token can read, given the share [Nv] of layers in which each column is readable."""
        shares = [round(share, 6) for share in (self.regions @ seen[: self.regions.shape[1]]).tolist()]
        if not self.runs or self.runs[-1][1] != shares:
            self.runs.append((characters(), shares))
