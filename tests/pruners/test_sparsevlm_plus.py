"""SparseVLM+ against plain Python loops; schedule, raters and layers are tested with SparseVLM."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pruners import ModelInfo, PrunerError, SparseVLMPlus
from pruners.sparsevlm_plus import ones
from tests.pruners.test_sparsevlm import LLAMA, QWEN, START, rated, run

WIDTH = 8
"""Channels of a head, as the keys of the test's model have them."""


def turned(position: int, base: float) -> list[float]:
    """RoPE of a vector of ones: channel f is paired with f + WIDTH / 2."""
    angles = [position * base ** (-2 * f / WIDTH) for f in range(WIDTH // 2)]
    return [math.cos(a) - math.sin(a) for a in angles] + [math.cos(a) + math.sin(a) for a in angles]


def pull(query: list[int], key: list[int], base: float) -> float:
    """Gravity between position ids on all axes."""
    by_axis = [
        math.fsum(a * b for a, b in zip(turned(q, base), turned(k, base), strict=True)) / math.sqrt(WIDTH)
        for q, k in zip(query, key, strict=True)
    ]  # fmt: skip
    return math.fsum(by_axis) / len(by_axis)


def loops(paid: list[list[list[float]]], chosen: list[int], pulls: list[list[float]], heads: int) -> list[float]:
    """Scores of the visual tokens from attention [H][T][n]."""
    n = len(paid[0][0])
    freed = [[[row[t][j] / pulls[t][j] for j in range(n)] for t in chosen] for row in paid]
    totals = [math.fsum(map(math.fsum, rows)) for rows in freed]
    top = sorted(range(len(paid)), key=lambda h: (-totals[h], h))[:heads]
    return [math.fsum(row[j] for h in top for row in freed[h]) for j in range(n)]


@given(
    st.integers(2, 40), st.integers(1, 5), st.integers(0, 10_000), st.sampled_from([LLAMA, QWEN]),
    st.sampled_from([1, 2, 3, 14]),
)  # fmt: skip
def test_equals_loops(n: int, text: int, seed: int, info: ModelInfo, heads: int) -> None:
    """Three steps; more heads than there are, one head; ids stay."""
    keep, base = 0.05 + (seed % 19) / 20, 10.0
    if round(keep * n) >= n:
        return
    pruner = SparseVLMPlus(keep=keep, heads=heads, rope_base=base)
    model, segment = run(pruner, n, text, seed, info)
    chosen, left = rated(model.seen[0][0].tolist(), n), list(range(START, START + n))
    for layer, k in zip((1, 2, 3), pruner.schedule(n), strict=True):
        _, ids, paid = model.seen[layer - 1]
        columns = ids.T.tolist()
        visual, after = columns[START : START + len(left)], columns[START + len(left) :]
        pulls = [[pull(q, j, base) for j in visual] for q in after]
        scores = loops(paid.double().tolist(), chosen, pulls, heads)
        order = sorted(range(len(left)), key=lambda j: (-scores[j], j))
        left = [left[j] for j in sorted(order[: min(k, len(left) - 1)])] if len(left) > 1 else left
        assert (
            model.seen[layer][1].tolist() == [[*range(START), *left, *range(START + n, START + n + text)]] * info.axes
        )
    assert segment.next_position == START + n + text


def test_vectors_of_ones() -> None:
    """On every axis by itself, at places far apart."""
    ids = torch.tensor([[0, 1, 35, 640, 2999], [7, 0, 2, 610, 5]])
    got = ones(ids, WIDTH, 10000.0)
    assert got.shape == (2, 5, WIDTH)
    for axis, place, row in ((a, i, got[a, i]) for a in range(2) for i in range(5)):
        assert row.tolist() == pytest.approx(turned(int(ids[axis, place]), 10000.0), abs=1e-3)


@pytest.mark.parametrize("bad", [{"heads": 0}, {"rope_base": 1.0}, {"rope_base": -3.0}])
def test_bad_parameters(bad: dict[str, float]) -> None:
    with pytest.raises(PrunerError, match="needs heads"):
        SparseVLMPlus(**bad)  # type: ignore[arg-type]
