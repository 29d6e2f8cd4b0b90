"""DART against plain Python, whose own sets give the order of the pivots."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from harness.engine.segment import Segment
from harness.golden.scene import Bare, prefill
from pruners import DART, ModelInfo, PrunerError
from pruners.dart import set_order
from pruners.signals import Keys

INFO = ModelInfo(name="m", depth=3, tower_depth=2)


def run(pruner: DART, hidden: Tensor, keys: Tensor, start: int, n: int) -> Segment:
    """Keys [H, l, d] are those of layer 1; text is told by its place, visual tokens count on from the prompt's end."""
    token = torch.arange(len(hidden)) - len(hidden)
    token[start : start + n] = torch.arange(n)
    known = {Keys(1): (keys, token)}
    return prefill(Bare(INFO, hidden), pruner, torch.arange(len(hidden)), start, n, signals=known).segment


def brute_force(
    pruner: DART, hidden: list[list[float]], norms: list[float], start: int, n: int, budget: int
) -> list[int]:
    """Places of the kept tokens; the pivots run in the order of a real set."""

    def cosine(a: list[float], b: list[float]) -> float:
        return math.fsum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))

    places, text = range(start, start + n), range(start + n, len(hidden))
    image = sorted(places, key=lambda i: (-norms[i], i))[: pruner.image_pivots]
    asked = sorted(text, key=lambda i: (-norms[i], i))[: pruner.text_pivots]
    pivots = list(set(image + asked)) if pruner.order == "cpython" else sorted(image + asked)
    each = pruner.image_pivots + pruner.text_pivots
    total, kept = budget // each * each, list(image)
    for number, pivot in enumerate(pivots):
        share = total // len(pivots) + (number < total % len(pivots))
        rest = sorted((i for i in places if i not in kept), key=lambda i: cosine(hidden[i], hidden[pivot]))
        kept += rest[:share]
    return sorted(kept)


@given(
    st.integers(0, 40), st.integers(1, 40), st.integers(1, 12), st.integers(1, 3), st.integers(0, 9999),
    st.sampled_from([(4, 4), (1, 0), (2, 3), (5, 3)]), st.sampled_from(["cpython", "ascending"]), st.data(),
)  # fmt: skip
def test_equals_brute_force(
    start: int, n: int, after: int, heads: int, seed: int, pivots: tuple[int, int], order: str, data: st.DataObject
) -> None:
    """Also with fewer text tokens than text pivots, whose share the others add."""
    g = Generator().manual_seed(seed)
    hidden = torch.randn(start + n + after, 5, generator=g)
    keys = torch.randn(heads, len(hidden), 3, generator=g)
    budget = data.draw(st.integers(1, n))
    pruner = DART(
        keep=None, tokens=budget, layer=2, image_pivots=pivots[0], text_pivots=pivots[1], order=order,  # type: ignore[arg-type]
    )  # fmt: skip
    left = run(pruner, hidden, keys, start, n)
    if pruner.count(n) == n:
        assert len(left) == len(hidden)
        return
    norms = keys.double().abs().sum((0, 2)).tolist()
    kept = brute_force(pruner, hidden.double().tolist(), norms, start, n, budget)
    assert left.index.tolist() == [*range(start), *kept, *range(start + n, len(hidden))]
    assert left.positions[0].tolist() == left.index.tolist()
    assert len(kept) == pruner.count(n) and left.next_position == len(hidden)


@given(st.lists(st.integers(0, 1 << 20), unique=True, max_size=60) | st.lists(st.integers(0, 90), unique=True))
def test_set_order(values: list[int]) -> None:
    """Collisions, neighbours at the end of a table, two and three sizes."""
    order = set_order(torch.tensor(values, dtype=torch.long))
    assert [values[i] for i in order.tolist()] == list(set(values))


def test_set_order_of_multiples() -> None:
    """Everything meets in the same slot, so that all is up to the probing."""
    for step in (8, 32, 128, 1024):
        for m in range(1, 40):
            values = [step * i for i in range(m)][::-1]
            assert [values[i] for i in set_order(torch.tensor(values)).tolist()] == list(set(values))


@pytest.mark.parametrize(("tokens", "kept"), [(192, 196), (128, 132), (64, 68), (7, 4), (576, 576)])
def test_counts(tokens: int, kept: int) -> None:
    assert DART(keep=None, tokens=tokens).count(576) == DART(keep=tokens / 576).count(576) == kept
    assert DART(keep=0.8).count(3) == 3


def test_order_matters_and_precision_does_not() -> None:
    g = Generator().manual_seed(0)
    hidden, keys = torch.randn(300, 16, generator=g).bfloat16(), torch.randn(2, 300, 8, generator=g).bfloat16()
    pruner = DART(keep=None, tokens=64, layer=2)
    kept = [run(pruner, hidden.to(t), keys.to(t), 20, 260).index.tolist() for t in (torch.bfloat16, torch.float64)]
    assert kept[0] == kept[1]
    other = run(DART(keep=None, tokens=64, layer=2, order="ascending"), hidden, keys, 20, 260).index.tolist()
    assert other != kept[0] and len(other) == len(kept[0])
    assert run(pruner, hidden, keys.flip(0), 20, 260).index.tolist() == kept[0]  # heads in another order


def test_bad_parameters() -> None:
    with pytest.raises(PrunerError, match="image pivot"):
        DART(image_pivots=0)
    with pytest.raises(PrunerError, match="layer 0"):
        DART(layer=0).check(INFO)
    assert DART().layers(4) == DART().layers(32) == (2,)


def test_a_budget_of_everything_drops_nothing() -> None:
    assert [DART(keep=1.0).count(n) for n in range(1, 40)] == list(range(1, 40))
