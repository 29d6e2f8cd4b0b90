"""What every selection must hold; `vtpbench conform` and the tests of all methods ask the same."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pruners.base import Pruner
from pruners.selection import Selection
from pruners.views import View


def faults(method: Pruner, view: View, selection: Selection) -> Iterator[str]:
    """What is wrong with a selection from a view, in words; nothing if it is valid."""
    source, n = selection.source, len(view)
    if source.dtype != torch.int64 or source.dim() != 1:
        yield f"source must be int64 [K], got {source.dtype} {list(source.shape)}"
        return
    if bool(((source < -1) | (source >= n)).any()):
        yield f"source must lie in -1..{n - 1}, got {int(source.min())} to {int(source.max())}"
        return
    kept = source[source >= 0]
    if not method.may_repeat and len(kept.unique()) < len(kept):
        yield "a token is kept twice, which its class does not declare (may_repeat)"
    if not method.may_pad and selection.weights is None and len(kept) < len(source):
        yield "source is -1 in a row without weights, which its class does not declare (may_pad)"
    if not method.may_repeat and selection.weights is None and bool((kept.diff() < 0).any()):
        yield "source is not ascending: tokens would change places"
    if isinstance(selection.positions, Tensor):
        wanted = [view.positions.shape[0], len(source)]
        if list(selection.positions.shape) != wanted:
            yield f"positions must be [A, K] = {wanted}, got {list(selection.positions.shape)}"
    elif selection.positions not in ("auto", "keep", "renumber"):
        yield f"positions must be auto, keep, renumber or ids, got {selection.positions!r}"
    rows = selection.rows(view.features)
    if rows.shape != (len(source), view.features.shape[1]) or not bool(rows.isfinite().all()):
        yield f"rows must be finite [K, D] = [{len(source)}, {view.features.shape[1]}], got {list(rows.shape)}"
