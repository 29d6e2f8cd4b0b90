"""Rules of methods that treat an overview and the other crops of a picture differently."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from harness.golden.compare import Golden
from harness.golden.rules import LLAVA
from harness.golden.scene import prune
from pruners.hired import HiRED
from pruners.layout import THUMBNAIL, Crop, VisualLayout
from pruners.signals import Signal, TowerAttention


def hired(golden: Golden) -> None:
    """Class-token attention of two tower layers in, overview first; mask of the kept tokens and its sums out."""
    deep = golden["in_bottom_layer_cls_attention"]
    crops, heads, n = golden.shaped("in_bottom_layer_cls_attention", None, None, None).shape
    first = golden.shaped("in_top_layer_cls_attention", crops, heads, n)
    layout = VisualLayout.of_crops([[Crop(1, n, kind=THUMBNAIL), *[Crop(1, n)] * (crops - 1)]])
    signals: dict[Signal, Tensor] = {
        TowerAttention(layer, "cls", "sum"): attention.sum(1).flatten() for layer, attention in ((-2, deep), (0, first))
    }
    pruner = HiRED(keep=golden.ratio("in_rate"), alpha=golden.ratio("in_alpha"))
    _, after = prune(pruner, torch.zeros(crops * n, 1), 0, crops * n, LLAVA, signals, layout)
    mask = torch.zeros(crops * n, dtype=torch.int64).index_fill(0, after.column, 1).view(crops, n)
    golden.equal("out_mask", mask)
    golden.equal("out_count_per_crop", mask.sum(1))


METHODS: dict[str, Callable[[Golden], None]] = {"HiRED": hired}
