"""Rules of methods that read CLIP on both sides, and of PruMerge."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from harness.golden.compare import Golden
from harness.golden.rules import LLAVA
from harness.golden.scene import prune
from pruners.prumerge import PruMerge, PruMergePlus, outliers
from pruners.signals import Signal, TowerAttention, TowerHidden, TowerKeys


def prumerge(golden: Golden) -> None:
    """int(n * ratio) centres, or as many as the scores have outliers."""
    k = int((len(golden["in_hidden_states"]) - 1) * golden.ratio("in_ratio"))
    _prumerge(golden, PruMerge(keep=None, tokens=k + 1, adaptive=bool(golden.number("in_adaptive"))), k)


def prumerge_plus(golden: Golden) -> None:
    """As many evenly spread centres beside them."""
    k = int((len(golden["in_hidden_states"]) - 1) * golden.ratio("in_ratio"))
    _prumerge(golden, PruMergePlus(keep=None, tokens=2 * k + 1, adaptive=bool(golden.number("in_adaptive"))), k)


def _prumerge(golden: Golden, pruner: PruMerge, k: int) -> None:
    """Rows before the projector, which is the identity here; the k first of them are the official code's top k."""
    hidden, query, keys = golden["in_hidden_states"], golden["in_layer23_q_cls"], golden["in_layer23_k"]
    scores = (keys @ query * len(query) ** -0.5).softmax(0)[1:]
    signals: dict[Signal, Tensor] = {
        TowerAttention(-1, "cls", "joint"): scores, TowerKeys(-1): keys[None, 1:], TowerHidden(-2): hidden[1:],
    }  # fmt: skip
    selection, after = prune(pruner, hidden[1:], 0, len(scores), LLAVA, signals)
    assert selection is not None
    k = int(len(scores) * outliers(scores)) if pruner.adaptive else k
    golden.equal("out_topk_index", selection.source[:k])
    golden.close("out_tokens", after.hidden)


METHODS: dict[str, Callable[[Golden], None]] = {"PruMerge": prumerge, "PruMergePlus": prumerge_plus}
