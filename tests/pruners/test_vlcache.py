"""VL-Cache against loops over weights and entries, and what it leaves alone."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from harness.engine import signals
from pruners import PrunerError, VLCache
from pruners.signals import Attention, Signal, Sparsity
from pruners.views import CacheEdit
from tests.pruners.caches import HEADS, MODEL, cache_view


def budgets(sparsity: list[float], keep: float, window: float) -> list[float]:
    dense = [1 - s for s in sparsity]
    wanted = [keep * (1 - window) * len(dense) * x / sum(dense) for x in dense]
    return [min(1.0, max(0.01 * (1 - window), b)) for b in wanted]


@pytest.mark.parametrize("seed", range(20))
def test_equals_loops(seed: int) -> None:
    """Coarse scores that tie, budgets below, inside and above the clamp, text among what is evicted."""
    rng = random.Random(seed)
    marks = "t" * rng.randint(0, 4) + "v" * rng.randint(1, 90) + "t" * rng.randint(1, 9)
    depth, n = rng.choice([1, 2, 5]), len(marks)
    sparsity = [rng.choice([0.0, 0.5, 0.9, 0.999]) * rng.random() for _ in range(depth)]
    scores = [[float(rng.randint(0, 5)) for _ in marks] for _ in range(depth)]
    keep, window = rng.choice([0.02, 0.1, 0.5, 1.0]), rng.choice([0.1, 0.5])
    pruner = VLCache(keep=keep, window=window).resolved(replace(MODEL, depth=depth))

    def record(signal: Signal) -> Tensor:
        assert signal in pruner.signals(replace(MODEL, depth=depth))
        if isinstance(signal, Sparsity):
            return torch.tensor(sparsity[signal.layer])
        assert isinstance(signal, Attention) and (signal.rows, signal.keys) == ("text", "all")
        return torch.tensor(scores[signal.layer])

    first = cache_view(marks, record)
    for layer, share in enumerate(budgets(sparsity, keep, window)):
        edit = pruner.at_cache(replace(first, layer=layer))
        recent, scored = max(1, int(n * keep * window)), max(1, int(share * n + 1e-5))
        old = sorted(range(n - recent), key=lambda i, layer=layer: (-scores[layer][i], i))  # type: ignore[misc]
        want = sorted(old[:scored]) + list(range(n - recent, n))
        assert (list(range(n)) if edit is None else edit.source[0].tolist()) == want
        assert edit is None or (edit.source.shape[0] == HEADS and torch.equal(edit.source[0], edit.source[-1]))
        assert edit is None or edit.keys is None


@pytest.mark.parametrize(("rows", "threshold", "group"), [([4, 5, 6], 0.01, 2), ([0], 0.5, 1), ([2, 6], 0.3, 3)])
def test_sparsity_equals_loops(rows: list[int], threshold: float, group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in blocks, heads that share a key, the mean over heads; keys after a row do not count."""
    monkeypatch.setattr(signals, "BLOCK", 2)
    torch.manual_seed(0)
    q, k = 3 * torch.randn(2 * group, 7, 4), torch.randn(2, 7, 4)
    got = signals.sparsity(Sparsity(0, threshold=threshold), signals.attention_blocks(q, k, torch.tensor(rows)))
    shares = []
    for head in range(2 * group):
        small = total = 0
        for row in rows:
            weights = torch.softmax(k[head // group, : row + 1] @ q[head, row] / 2, 0).tolist()
            small += sum(w < threshold * max(weights) for w in weights)
            total += len(weights)
        shares.append(small / total)
    assert float(got) == pytest.approx(sum(shares) / len(shares)) and (0 < float(got) < 1) == (rows != [0])


@pytest.mark.parametrize("marks", ["ttttttttttttttt", "ttvvvvvvvvvvv"])
def test_leaves_alone(marks: str) -> None:
    """No picture; no text behind it."""

    def unread(_: Signal) -> Tensor:
        raise AssertionError

    edit: CacheEdit | None = VLCache().resolved(MODEL).at_cache(cache_view(marks, unread))
    assert edit is None


@pytest.mark.parametrize("wrong", [{"keep": 0}, {"keep": 1.2}, {"window": 1}, {"threshold": 2}])
def test_refuses(wrong: dict[str, float]) -> None:
    with pytest.raises(PrunerError):
        VLCache(**wrong)  # type: ignore[arg-type]
