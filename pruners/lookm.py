"""LOOK-M: after prefill, text and the visual entries attended to most stay, and the others are merged into them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pruners.base import Pruner, PrunerError
from pruners.signals import Attention, Signal
from pruners.views import CacheEdit, CacheView, ModelInfo


@dataclass(frozen=True, kw_only=True)
class LookM(Pruner):
    """LOOK-M (Look-Once Optimization in KV Cache for Efficient Multimodal Long-Context Inference, arXiv 2406.18139).

    At the cache moment, in every layer of n entries and for every key-value head on its own: the last int(recent * n)
    entries stay. Of the older ones the int(hh * n) highest stay, text before visual, scored by the attention they got
    from all rows of prefill; text always stays, however much it is. Every other entry e joins the kept one c(e) whose
    key has the highest cosine with its own, and with E(c) the entries that joined c,

        k_c <- (k_c + sum over e in E(c) of (k_e + k_c) / 2) / (1 + |E(c)|),    v_c likewise with the same c(e).

    Position ids stay, for the reply too. Prefill is dense. Layers wait for the device, to count old text, where the
    recent window reaches back to the picture.

    Stated by the paper: the scores, text first, the recent window, the three ways to merge. Of the official code:
    rounding, and merging into any kept entry, text and recent ones included. It lowers the scores of visual entries by
    65516 in float32, which rounds them to 1/256; here they are compared as they are. It assumes pictures of 576 tokens
    and heads of 128 channels. Inferred: a head that several query heads share has their mean score (as in
    EffiVLM-Bench); at least one recent and one older entry; cosines as the weights of "weighted".

    Attributes:
        keep: share of the prompt's cache that stays, text included, half of it recent (the paper's cache budget);
            `Trace.kv` counts visual entries alone. Takes the place of `hh` and `recent`.
        hh, recent: shares of the cache for attended and for recent entries; 0.1 each if nothing is given.
        merge: the paper's "pivotal" (above), "averaged" (k_e alone in the sum) or "weighted" (cosine * k_e); "none"
            evicts.
    """

    keep: float | None = None
    hh: float | None = None
    recent: float | None = None
    merge: Literal["pivotal", "averaged", "weighted", "none"] = "pivotal"

    def __post_init__(self) -> None:
        if self.keep is not None and (self.hh is not None or self.recent is not None):
            raise PrunerError("give keep=, or hh= and recent=")
        for name in ("keep", "hh", "recent"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise PrunerError(f"{name} must lie in (0, 1], got {value}")

    def resolved(self, model: ModelInfo) -> Self:
        hh, recent = (None, None) if self.keep is not None else (self.hh or 0.1, self.recent or 0.1)
        return replace(self, hh=hh, recent=recent)

    def sizes(self, entries: int) -> tuple[int, int]:
        """How many attended and how many recent entries stay, if text leaves them room; at least one each."""
        if self.keep is not None:
            budget = int(entries * self.keep)
            return max(1, budget - budget // 2), max(1, budget // 2)
        return max(1, int(entries * (self.hh or 0.1))), max(1, int(entries * (self.recent or 0.1)))

    def signals(self, model: ModelInfo) -> Sequence[Signal]:
        return tuple(map(self._scores, range(model.depth)))

    def _scores(self, layer: int) -> Attention:
        return Attention(layer, rows="all", keys="all", head="none", row="sum")

    def at_cache(self, view: CacheView) -> CacheEdit | None:
        n, (hh, recent) = len(view.column), self.sizes(len(view.column))
        visual = view.column >= 0
        if recent <= view.sample.text_after or visual.is_meta:  # no values: as if the recent entries were text
            text = max(0, view.sample.length - len(view.sample.layout) - recent)
        else:
            text = int((~visual[:-recent]).sum())
        count = max(hh, text) + recent
        if count >= n:
            return None
        score = view[self._scores(view.layer)].unflatten(0, (len(view.keys), -1)).mean(1)
        score = score.masked_fill(~visual | (torch.arange(n, device=score.device) >= n - recent), torch.inf)
        order = score.argsort(dim=1, descending=True, stable=True)
        kept, gone = order[:, :count].sort(dim=1).values, order[:, count:]
        if self.merge == "none":
            return CacheEdit(kept)
        return CacheEdit(kept, *self._merged(view, kept, gone))

    def _merged(self, view: CacheView, kept: Tensor, gone: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [Hkv, K, d] of the kept entries with the others merged into them."""
        keys = view.keys.float()
        view.charge(2 * kept.shape[1] * gone.shape[1] * keys.shape[0] * keys.shape[2])
        nearest = (normalize(_rows(keys, gone), dim=-1) @ normalize(_rows(keys, kept), dim=-1).mT).max(-1)

        def merged(x: Tensor) -> Tensor:
            own, added = _rows(x.float(), kept), _rows(x.float(), gone)
            if self.merge == "pivotal":
                added = (added + _rows(own, nearest.indices)) / 2
            elif self.merge == "weighted":
                added = nearest.values[..., None] * added
            into = nearest.indices[..., None].expand_as(added)
            return own.scatter_reduce(1, into, added, "mean").to(x.dtype)

        return merged(view.keys), merged(view.values)


def _rows(x: Tensor, places: Tensor) -> Tensor:
    """[Hkv, m, d] rows of x [Hkv, l, d] at places [Hkv, m]."""
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))
