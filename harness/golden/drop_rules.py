"""Rules of methods that drop tokens by thresholds: how many is known only then."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from harness.golden.compare import Damaged, Golden
from harness.golden.rules import LLAVA
from harness.golden.scene import pruned
from pruners.base import Pruner
from pruners.layout import VisualLayout
from pruners.mustdrop import MustDrop
from pruners.selection import Selection
from pruners.signals import Attention
from pruners.views import View


@dataclass(frozen=True, kw_only=True)
class InSequence(Pruner):
    """The encoder moment of a method, on a sequence in which the class token is text before a picture."""

    base: Pruner

    def at_embed(self, view: View) -> Selection | None:
        return self.base.at_encoder(view)


def spatial(golden: Golden) -> None:
    """Tokens of a square after a tower layer, class token first, in; merged ones and their sizes out."""
    rows, _ = golden.shaped("in_tokens", None, None).shape
    side = math.isqrt(rows - 1)
    if side * side != rows - 1:
        raise Damaged(f"{rows - 1} tokens are no square")
    pruner = MustDrop(merge=golden.ratio("in_threshold"), window=golden.number("in_window"))
    layout = VisualLayout.of_grids([(side, side)])
    _, after = pruned(InSequence(base=pruner), golden["in_tokens"], 1, rows - 1, LLAVA, layout=layout)
    golden.close("out_tokens", after.hidden)
    golden.close("out_sizes", after.size)


def dual(golden: Golden) -> None:
    """Attention of text to a picture [H, T, n] in; kept set of one stage out, without a key set."""
    attention = golden.shaped("in_text_to_image_attention", None, None, None)
    _, text, n = attention.shape
    layer = 3
    pruner = MustDrop(
        thresholds=(golden.ratio("in_global_thr"), golden.ratio("in_individual_thr")), drop_at=(layer,), key_share=0.0
    )
    paid = Attention(layer - 1, rows="text", head="mean", row="none")
    _, after = pruned(pruner, torch.zeros(n + text, 1), 0, n, LLAVA, {paid: attention.mean(0)})
    golden.equal("out_keep_index", after.column)


METHODS: dict[str, Callable[[Golden], None]] = {"MustDropSpatial": spatial, "MustDropDual": dual}
