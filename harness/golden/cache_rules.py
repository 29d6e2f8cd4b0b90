"""Rules of methods that edit the cache after prefill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from harness.engine.layer_cache import LayerCache, edited
from harness.golden.compare import Damaged, Golden
from harness.golden.rules import LLAVA
from harness.golden.scene import Bare, prefill
from pruners.layout import VisualLayout
from pruners.lookm import LookM
from pruners.signals import Sparsity
from pruners.views import CacheView, Sample
from pruners.vlcache import VLCache

PICTURE = 576
"""Visual tokens of a picture in LOOK-M's files, which do not tell."""


def lookm(golden: Golden) -> None:
    """Cache and attention column sums of the heads of one layer in, its cache after merging out."""
    keys = golden.shaped("in_keys", None, None, None)
    heads, n, _ = keys.shape
    values = golden.shaped("in_values", heads, n, None)
    start = golden.number("in_image_start")
    if not 0 <= start <= n - PICTURE:
        raise Damaged(f"a picture of {PICTURE} tokens at {start} does not fit {n} entries")
    pruner = LookM(hh=golden.ratio("in_hh_ratio"), recent=golden.ratio("in_recent_ratio"))
    visual = torch.arange(start, start + PICTURE)
    column = torch.full((n,), -2)
    column[visual] = torch.arange(PICTURE)
    score = _ties_as_official(golden.shaped("in_attention_column_sum", heads, n), visual, *pruner.sizes(n))
    sample = Sample(
        "golden", VisualLayout.of_grids([(24, 24)]), visual, n, n - start - PICTURE, keys[0], "", (),
        lambda seed: torch.Generator().manual_seed(seed),
    )  # fmt: skip
    view = CacheView(sample, 0, keys, values, column, torch.arange(n), {}, lambda *_: score)
    edit, every = pruner.at_cache(view), torch.arange(n)
    cache = LayerCache(keys, values, column, every, torch.ones(n), every[None], n, PICTURE)
    cache = cache if edit is None else edited([cache], {0: edit})[0]
    golden.close("out_keys", cache.keys)
    golden.close("out_values", cache.values)


def _ties_as_official(score: Tensor, visual: Tensor, hh: int, recent: int) -> Tensor:
    """Scores in which ties fall as in the official code: visual ones lowered in float32 tie within 1/256.

    Its topk breaks such ties in no order that could be told beforehand. Whatever it picks is raised by as much, which
    changes the order of nothing that does not tie.
    """
    lowered = score.index_add(1, visual, torch.full_like(score[:, visual], -65516.0))
    picked = lowered[:, : score.shape[1] - recent].topk(min(hh, score.shape[1] - recent), dim=1).indices
    return score.scatter_add(1, picked, torch.full_like(score[:, : picked.shape[1]], 1 / 256))


class Attending(Bare):
    """Layers that change nothing, but have the attention of a file: weights [depth, H, T, n] of the last T tokens."""

    def __init__(self, weights: Tensor) -> None:
        depth, _, _, n = weights.shape
        super().__init__(replace(LLAVA, depth=depth), torch.zeros(n, 1))
        self.logits = weights.log().clamp(min=-1e4)  # finite, and still no weight

    def layer(self, k: int, hidden: Tensor, rope: tuple[Tensor, Tensor], attention: Any) -> Tensor:
        heads, rows, n = self.logits[k].shape
        query = torch.cat([torch.zeros(heads, n - rows, n), self.logits[k] * n**0.5], dim=1)
        attention.attend(k, query[None], torch.eye(n)[None, None], torch.eye(n)[None, None])
        return hidden


def vlcache(golden: Golden) -> None:
    """Attention of the text after the picture in; sparsity and budget of every layer and the entries it keeps out."""
    weights = golden.shaped("in_post_vision_attention", None, None, None, None)
    depth, _, rows, n = weights.shape
    pruner = VLCache(keep=golden.ratio("in_budget"))
    done = prefill(Attending(weights), pruner, torch.arange(n), 0, n - rows)
    sparsity = torch.stack([done.records[0].values[Sparsity(layer)][0] for layer in range(depth)])
    golden.close("out_layer_sparsity", sparsity)
    golden.close("out_layer_budget", pruner.shares(sparsity))
    kept = [cache.index for cache in done.cache]
    golden.equal("out_kept_index_per_layer", torch.nn.utils.rnn.pad_sequence(kept, True, -1))


METHODS: dict[str, Callable[[Golden], None]] = {"LOOKM": lookm, "VLCache": vlcache}
