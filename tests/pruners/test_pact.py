"""PACT against a loop over tokens, and inside the engine."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harness.engine import Decoding, Engine, Request
from harness.golden.scene import Bare, prefill
from harness.models.known import LLAVA
from pruners import PACT, PrunerError
from pruners.views import Entries
from tests.tiny import CONFIGS, Prompted

BEFORE, AFTER, K = 2, 3, 1
INFO = replace(LLAVA, depth=4)


class Given(Bare):
    """Queries and keys before RoPE as given; RoPE turns keys by an angle per place."""

    def __init__(self, hidden: Tensor, q: Tensor, k: Tensor) -> None:
        super().__init__(INFO, hidden, depth=4)
        self.q, self.k = q, k

    def qk(self, k: int, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        assert k == K
        return turned(self.q, positions[0]), turned(self.k, positions[0])


def turned(x: Tensor, positions: Tensor) -> Tensor:
    angle = positions[:, None] * 0.3
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], dim=-1)


def brute(
    hidden: Any, q: Any, k: Any, keys: Any, n: int, m: int, cutoff: float, recovery: float
) -> dict[int, set[int]]:
    """Members of every cluster by its centre, of the n tokens from BEFORE on; float64 arrays [rows, ...]."""
    seen, heads, groups = BEFORE + n, len(q), len(q) // len(k)
    importance = np.zeros(n)
    for h in range(heads):
        logits = [q[h, :seen].mean(0) @ k[h // groups, i] / math.sqrt(q.shape[-1]) for i in range(seen)]
        total = sum(math.exp(x) for x in logits)
        importance += [math.exp(logits[BEFORE + i]) / total / heads for i in range(n)]
    importance *= np.linalg.norm(hidden[BEFORE:seen], axis=1)
    first = sorted(sorted(range(n), key=lambda i: (-importance[i], i))[:m])

    def apart(i: int, j: int) -> float:
        a, b = keys[:, BEFORE + i].ravel(), keys[:, BEFORE + j].ravel()
        return 0.0 if i == j else max(0.0, 1 - float(a @ b) / float(np.linalg.norm(a) * np.linalg.norm(b)))

    density = {i: sum(math.exp(-((apart(i, j) / 2) ** 2)) for j in first) for i in first}
    clusters: dict[int, set[int]] = {}
    for i in sorted(first, key=lambda i: (-density[i], i)):
        if all(apart(i, c) > cutoff for c in clusters):
            clusters[i] = set()
    for i in range(n):
        nearest = min(sorted(clusters), key=lambda c: apart(i, c))
        if apart(i, nearest) <= recovery * cutoff:
            clusters[nearest].add(i)
    return clusters


@given(
    st.integers(0, 9999), st.integers(1, 24), st.sampled_from([0.05, 0.4, 0.55, 1.0]),
    st.sampled_from([0.0, 0.05, 0.3, 0.9, 3.0]), st.sampled_from([0.0, 0.5, 1.0, 1.5, 4.0]), st.sampled_from([1, 2]),
)  # fmt: skip
def test_equals_a_loop(seed: int, n: int, important: float, cutoff: float, recovery: float, groups: int) -> None:
    """Members, means, ids and sizes; some tokens are alike, so that clusters have several members."""
    rng = torch.Generator().manual_seed(seed)
    length, kinds = BEFORE + n + AFTER, torch.randint(0, 5, (BEFORE + n + AFTER,), generator=rng)
    hidden = torch.randn(length, 6, generator=rng)
    q = torch.randn(2 * groups, length, 4, generator=rng)
    k = torch.randn(2, 5, 4, generator=rng)[:, kinds] + 0.2 * torch.randn(2, length, 4, generator=rng)
    pruner = PACT(layer=K, important=important, cutoff=cutoff, recovery=recovery)
    after = prefill(Given(hidden, q, k), pruner, torch.arange(length), BEFORE, n).segment
    keys = turned(k, torch.arange(length))
    arrays = (x.double().numpy() for x in (hidden, q, k, keys))
    want = brute(*arrays, n, max(1, math.floor(important * n + 1e-9)), cutoff, recovery)
    rows = [hidden[[BEFORE + i for i in sorted(want[c])]].mean(0) for c in sorted(want)]
    index = [*range(BEFORE), *(BEFORE + c for c in sorted(want)), *range(BEFORE + n, length)]
    assert after.index.tolist() == index and after.positions.tolist() == [index]
    assert after.size.tolist() == [1.0] * BEFORE + [float(len(want[c])) for c in sorted(want)] + [1.0] * AFTER
    torch.testing.assert_close(after.hidden[BEFORE:-AFTER], torch.stack(rows), atol=1e-5, rtol=1e-5)


def test_attention_in_proportion_to_size() -> None:
    """From the layer on, whatever the fraction resolves to; before, the path without a mask."""
    pruner, size = PACT(layer="4/28").resolved(replace(INFO, depth=14)), torch.tensor([1.0, 4.0])
    keys = Entries(torch.zeros(1, 2), size, torch.tensor([False, True]))
    assert pruner.layers(14) == (2,) and pruner.resolved(INFO) == pruner
    assert pruner.bias(1, torch.zeros(1, 3), keys) is None
    torch.testing.assert_close(pruner.bias(2, torch.zeros(1, 3), keys), torch.tensor([[0.0, math.log(4)]]))


def test_all_alike_are_one_token() -> None:
    """A cutoff that holds everything leaves one token per prompt, pictures together; one that is 0 drops half."""
    model = Prompted(CONFIGS["untied"], "cpu", [(8, 6), (4, 4)])
    for pruner, left in ((PACT(cutoff=2.0), 1), (PACT(important=0.5, cutoff=0.0), 8)):
        (trace,) = Engine(model).run([Request("r", ())], pruner, Decoding(max_new_tokens=3))
        start = pruner.layers(model.info.depth)[0]
        assert trace.error is None and trace.visual_tokens == 16
        assert trace.visual_per_layer == [16] * start + [left] * (model.info.depth - start)


@pytest.mark.parametrize("options", [{"important": 0.0}, {"important": 1.1}, {"cutoff": -0.1}, {"recovery": -1.0}])
def test_what_cannot_be(options: dict[str, float]) -> None:
    with pytest.raises(PrunerError, match=next(iter(options))):
        PACT(**options)  # type: ignore[arg-type]
