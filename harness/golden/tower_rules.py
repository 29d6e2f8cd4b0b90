"""Rules of methods that read the vision tower."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.golden.compare import Golden
from harness.golden.rules import LLAVA
from harness.golden.scene import pruned
from pruners.base import Pruner
from pruners.fastervlm import FasterVLM
from pruners.hiprune import HiPrune
from pruners.holov import HoloV
from pruners.layout import VisualLayout
from pruners.selection import Selection
from pruners.signals import Signal, TowerAttention, TowerHidden
from pruners.views import ModelInfo, View
from pruners.vispruner import VisPruner

CLS = TowerAttention(-2, "cls", "mean")


@dataclass(frozen=True, kw_only=True)
class OnSquare(Pruner):
    """A method on a crop whose tokens lie in a square, as those of CLIP do."""

    base: Pruner

    def resolved(self, model: ModelInfo) -> Pruner:
        return replace(self, base=self.base.resolved(model))

    def signals(self, model: ModelInfo) -> Sequence[Signal]:
        return self.base.signals(model)

    def at_embed(self, view: View) -> Selection | None:
        side = math.isqrt(len(view))
        layout = VisualLayout.of_grids([(side, side)])
        return self.base.at_embed(replace(view, sample=replace(view.sample, layout=layout)))


def kept(golden: Golden, pruner: Pruner, crops: Iterable[Mapping[Signal, Tensor]]) -> None:
    """Kept sets of crops with these signals, each pruned by itself."""
    sources = []
    for crop in crops:
        n = next(value.shape[-1] for signal, value in crop.items() if isinstance(signal, TowerAttention))
        selection, _ = pruned(pruner, torch.zeros(n, 1), 0, n, LLAVA, crop)
        sources.append(selection.source)
    golden.equal("out_keep_index", torch.stack(sources) if len(sources) > 1 else sources[0])


def fastervlm(golden: Golden) -> None:
    """Attention of the class token in, kept set out."""
    attention = golden["in_cls_attention"].mean(1)
    kept(golden, FasterVLM(keep=None, tokens=golden.number("in_keep")), ({CLS: scores} for scores in attention))


def vispruner(golden: Golden) -> None:
    """Attention of the class token and the tower's features in, kept set out."""
    pruner = VisPruner(keep=None, tokens=golden.number("in_keep"), important=golden.ratio("in_important_ratio"))
    crops = zip(golden["in_cls_attention"].mean(1), golden["in_features"], strict=True)
    kept(golden, pruner, ({CLS: scores, TowerHidden(-2): features} for scores, features in crops))


def holov(golden: Golden) -> None:
    """Attention and projected tokens in; tokens in their order out, and the places that they come from."""
    pruner = HoloV(keep=None, tokens=golden.number("in_keep"), strips=golden.number("in_num_crops"))
    tokens, sources = [], []
    for features, scores in zip(golden["in_features"], golden["in_attention"], strict=True):
        selection, after = pruned(pruner, features, 0, len(features), LLAVA, {CLS: scores})
        tokens.append(after.hidden)
        sources.append(selection.source)
    golden.close("out_tokens", torch.stack(tokens))
    golden.equal("out_positions_in_output_order", torch.cat(sources))


def hiprune(golden: Golden) -> None:
    """Attention received in two layers, class token first, in; kept sets of all crops out, which share a budget."""
    deep, middle = golden["in_deep_attention_mean"][:, 1:], golden["in_object_attention_mean"][:, 1:]
    layer = golden.number("in_object_layer_1based") - 1
    one_crop = "in_keep" in golden.data
    tokens = golden.number("in_keep") if one_crop else golden.number("in_keep_total") // len(deep)
    pruner = HiPrune(keep=None, tokens=tokens, alpha=golden.ratio("in_alpha"), object_layer=layer)
    signals = TowerAttention(layer, "received", "mean"), TowerAttention(-2, "received", "mean")
    crops = zip(middle, deep, strict=True)
    kept(golden, OnSquare(base=pruner), (dict(zip(signals, scores, strict=True)) for scores in crops))


METHODS: dict[str, Callable[[Golden], None]] = {
    "FasterVLM": fastervlm, "VisPruner": vispruner, "HoloV": holov, "HiPrune": hiprune,
}  # fmt: skip
