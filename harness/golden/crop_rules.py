"""Rules of methods that treat an overview and the other crops of a picture differently."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from harness.golden.compare import Damaged, Golden
from harness.golden.rules import LLAVA
from harness.golden.scene import pruned
from pruners.gprune import GPrune
from pruners.hired import HiRED
from pruners.layout import NEWLINE, THUMBNAIL, Crop, VisualLayout
from pruners.signals import Signal, TowerAttention


def hired(golden: Golden) -> None:
    """Class-token attention of two tower layers in, overview first; mask of the kept tokens and its sums out."""
    deep = golden.shaped("in_bottom_layer_cls_attention", None, None, None)
    first = golden.shaped("in_top_layer_cls_attention", *deep.shape)
    crops, _, n = deep.shape
    layout = VisualLayout.of_crops([[Crop(1, n, kind=THUMBNAIL), *[Crop(1, n)] * (crops - 1)]])
    signals: dict[Signal, Tensor] = {
        TowerAttention(layer, "cls", "sum"): attention.sum(1).flatten() for layer, attention in ((-2, deep), (0, first))
    }
    pruner = HiRED(keep=golden.ratio("in_rate"), alpha=golden.ratio("in_alpha"))
    _, after = pruned(pruner, torch.zeros(crops * n, 1), 0, crops * n, LLAVA, signals, layout)
    mask = torch.zeros(crops * n, dtype=torch.int64).index_fill(0, after.column, 1).view(crops, n)
    golden.equal("out_mask", mask)
    golden.equal("out_count_per_crop", mask.sum(1))


def gprune(golden: Golden) -> None:
    """Tokens of an overview, then of rows with a token behind each, in; kept set out."""
    features, rows, columns = golden["in_features"], golden.number("in_rows"), golden.number("in_cols")
    base = len(features) - rows * (columns + 1)
    if rows < 1 or columns < 1 or base < 1:
        raise Damaged(f"{rows} rows of {columns} tokens and an overview do not fit {len(features)} tokens")
    crops = [Crop(1, base, kind=THUMBNAIL), Crop(rows, columns), Crop(rows, 1, kind=NEWLINE)]
    layout = VisualLayout.of_crops([crops])
    layout = layout[(layout.crop.clamp(max=1) * rows + layout.row).argsort(stable=True)]  # each row, then its end
    pruner = GPrune(
        keep=golden.ratio("in_keep_ratio"), similarity=golden.ratio("in_similarity"),
        temperature=golden.ratio("in_temperature"), iterations=golden.number("in_iterations"),
    )  # fmt: skip
    _, after = pruned(pruner, features, 0, len(features), LLAVA, layout=layout)
    golden.equal("out_keep_index", after.column)


METHODS: dict[str, Callable[[Golden], None]] = {"HiRED": hired, "GPrune": gprune}
