"""The rule of FitPrune, whose schedule a fit decides."""

from __future__ import annotations

from collections.abc import Callable

import torch

from harness.golden.compare import Golden
from harness.golden.rules import LLAVA
from harness.golden.scene import pruned
from pruners.fitprune import FitPrune, attention


def fitprune(golden: Golden) -> None:
    """Attention of visual and then text rows to the visual tokens in, [heads, rows, n]; places that stay out."""
    n, rows = golden.number("in_image_tokens"), golden["in_attention"].shape[1]
    heads = golden.shaped("in_attention", None, rows, n).amax(0)
    known = zip(attention(0), (heads[:n].sum(0), heads[n:].sum(0)), strict=True)
    pruner = FitPrune(deletes=(golden.number("in_delete") / n,))
    selection, _ = pruned(pruner, torch.zeros(rows, 1), 0, n, LLAVA, dict(known))
    kept = torch.arange(n) if selection is None else selection.source
    golden.equal("out_keep_index", kept)


METHODS: dict[str, Callable[[Golden], None]] = {"FitPrune": fitprune}
