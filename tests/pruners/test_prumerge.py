"""PruMerge and PruMerge+ against plain Python loops over the definition."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from harness.engine.segment import Segment
from harness.golden.scene import prune
from pruners import ModelInfo, PrunerError, Selection
from pruners.prumerge import PruMerge, PruMergePlus
from pruners.signals import Signal, TowerAttention, TowerHidden, TowerKeys

CLIP = ModelInfo(name="clip", depth=2, tower_depth=4, has_cls=True, feature_layer=-2)
QWEN = ModelInfo(name="qwen", depth=2, tower_depth=4, unit=4, axes=3)
INTERN = replace(QWEN, name="intern", has_cls=True, axes=1)


class Case(NamedTuple):
    """Random states [3 + n + 2, 5] of a prompt, tower states [n, 5], keys [2, n, 3] and scores [n] that sum to 0.8."""

    prompt: Tensor
    tower: Tensor
    keys: Tensor
    scores: Tensor

    @classmethod
    def of(cls, n: int, seed: int) -> Case:
        g = Generator().manual_seed(seed)
        scores = torch.rand(n, generator=g) ** 4
        return cls(
            torch.randn(n + 5, 5, generator=g), torch.randn(n, 5, generator=g), torch.randn(2, n, 3, generator=g),
            0.8 * scores / scores.sum(),
        )  # fmt: skip

    def run(self, pruner: PruMerge, info: ModelInfo) -> tuple[Selection | None, Segment]:
        signals: dict[Signal, Tensor] = {
            TowerAttention(-1, "cls" if info.has_cls else "received", "joint"): self.scores, TowerKeys(-1): self.keys,
            TowerHidden(info.feature_layer): self.tower,
        }  # fmt: skip
        return prune(pruner, self.prompt, 3, len(self.scores), info, signals)

    def merged(self, centres: list[int], x: Tensor, a: Tensor, neighbours: int = 32) -> Tensor:
        """Rows [K + 1, D] from x [n, D] and weights a [n], with one row per entry of `centres`."""
        keys = self.keys.transpose(0, 1).flatten(1).tolist()

        def cosine(i: int, j: int) -> float:
            return math.fsum(p * q for p, q in zip(keys[i], keys[j], strict=True)) / (
                math.hypot(*keys[i]) * math.hypot(*keys[j])
            )

        outside = [i for i in range(len(keys)) if i not in centres]
        outside = outside[len(centres) - len(set(centres)) :]
        rows = []
        for c, i in enumerate(centres):
            pool = centres[:c] + centres[c + 1 :] + outside
            near = sorted(pool, key=lambda j, i=i: -cosine(i, j))[:neighbours]  # type: ignore[misc]
            rows.append(x[i] + sum((a[j] * x[j] for j in near), torch.zeros(5)))
        return torch.stack([*rows, sum((a[j] * x[j] for j in outside), torch.zeros(5))])


def best(scores: Tensor) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))


@given(st.integers(2, 45), st.integers(0, 10_000), st.integers(1, 40), st.data())
def test_before_the_projector(n: int, seed: int, neighbours: int, data: st.DataObject) -> None:
    """Centres in the order of their scores, the token of all others behind them; a budget of one is that token."""
    case, k = Case.of(n, seed), data.draw(st.integers(1, n - 1))
    selection, after = case.run(PruMerge(keep=None, tokens=k, neighbours=neighbours), CLIP)
    centres = best(case.scores)[: k - 1]
    assert selection is not None and selection.source.tolist() == [*centres, -1]
    want = case.merged(centres, case.tower, case.scores, neighbours)
    torch.testing.assert_close(after.hidden[3 : 3 + k], want, atol=1e-5, rtol=1e-5)
    assert after.positions.tolist() == [list(range(k + 5))]
    assert selection.size is None and after.size[3 + k - 1] == n - k + 1


@given(st.integers(2, 45), st.integers(0, 10_000), st.sampled_from([QWEN, INTERN]), st.data())
def test_on_embeddings(n: int, seed: int, info: ModelInfo, data: st.DataObject) -> None:
    """Raster order, weights that sum to one, ids of the full prompt under M-RoPE."""
    case, k = Case.of(n, seed), data.draw(st.integers(2, n)) - 1
    _, after = case.run(PruMerge(keep=None, tokens=k), info)
    centres = sorted(best(case.scores)[: k - 1])
    want = case.merged(centres, case.prompt[3 : 3 + n], case.scores / 0.8)
    torch.testing.assert_close(after.hidden[3 : 3 + k], want, atol=1e-5, rtol=1e-5)
    if info.axes == 3 and k > 1:
        places = [3 + i for i in (*centres, centres[-1])]
        assert after.positions[0].tolist() == [0, 1, 2, *places, n + 3, n + 4]


@given(st.integers(8, 60), st.integers(0, 10_000), st.booleans())
def test_adaptive(n: int, seed: int, plus: bool) -> None:
    """The number of outliers decides, without any the budget plays no part either."""
    case = Case.of(n, seed)
    scores = case.scores.numpy()
    low, high = np.percentile(scores, [25, 75])
    share = int((scores > high + 1.5 * (high - low)).sum()) / n
    centres = best(case.scores)[: int(n * share)]
    if plus:
        step = int(int(1 / share) / 3) if share else n
        centres += [i for i in range(0, n - 1, step) if i not in centres]
    pruner = (PruMergePlus if plus else PruMerge)(adaptive=True)
    selection, after = case.run(pruner, CLIP)
    assert selection is not None and selection.source.tolist() == [*centres, -1]
    assert after.sample.id and pruner.flops(CLIP, "embed", n, 5) == 0  # charged as it runs
    want = case.merged(centres, case.tower, case.scores)
    torch.testing.assert_close(after.hidden[3:-2], want, atol=1e-5, rtol=1e-5)


@given(st.integers(4, 60), st.integers(0, 10_000), st.booleans(), st.data())
def test_plus(n: int, seed: int, repaired: bool, data: st.DataObject) -> None:
    """Half of the centres are spread evenly; twice in the result if the score chose them too, unless repaired."""
    case, k = Case.of(n, seed), data.draw(st.integers(1, n - 1))
    selection, after = case.run(PruMergePlus(keep=None, tokens=k, repaired=repaired), CLIP)
    m = (k - 1) // 2
    top = best(case.scores)[: k - 1 - m]
    rest = [i for i in range(n) if i not in top]
    if repaired:
        spread = [rest[(2 * i + 1) * len(rest) // (2 * m)] for i in range(m)]
    else:
        spread = list(range(n // m // 2, n - 1, n // m)) if m else []
        spread = spread if len(spread) == m else [(2 * i + 1) * n // (2 * m) for i in range(m)]
    assert selection is not None and selection.source.tolist() == [*top, *spread, -1]
    want = case.merged([*top, *spread], case.tower, case.scores)
    torch.testing.assert_close(after.hidden[3 : 3 + k], want, atol=1e-5, rtol=1e-5)
    assert selection.weights is not None
    used = [*selection.source[:-1].tolist(), *selection.weights.cols[selection.weights.rows == k - 1].tolist()]
    assert sorted(used) == list(range(n)) if repaired else len(used) == n


def test_official_places() -> None:
    """Of 576, an eighth by score and an eighth at 4, 12, ...; 145 tokens in all."""
    case = Case.of(576, 0)
    selection, _ = case.run(PruMergePlus(keep=None, tokens=145), CLIP)
    assert selection is not None and selection.source[72:-1].tolist() == list(range(4, 576, 8))


def test_ties_go_to_the_lower_index() -> None:
    """Equal scores and equal keys: the first are centres, and the first others their neighbours."""
    case = Case.of(9, 0)._replace(scores=torch.full((9,), 0.1), keys=torch.ones(2, 9, 3))
    selection, _ = case.run(PruMerge(keep=None, tokens=4, neighbours=3), CLIP)
    assert selection is not None and selection.weights is not None
    assert selection.source.tolist() == [0, 1, 2, -1]
    assert selection.weights.cols.tolist() == [0, 1, 2, 1, 2, 3, 0, 2, 3, 0, 1, 3, 3, 4, 5, 6, 7, 8]


def test_heads_and_budgets() -> None:
    """The order of heads plays no part; nothing happens within the budget; costs are those of the similarities."""
    case = Case.of(30, 1)
    turned = case._replace(keys=case.keys.flip(0))
    torch.testing.assert_close(case.run(PruMerge(), CLIP)[1].hidden, turned.run(PruMerge(), CLIP)[1].hidden)
    for budget in ({"keep": 1.0}, {"keep": None, "tokens": 30}):
        pruner = PruMerge(**budget)
        assert case.run(pruner, CLIP)[0] is None and pruner.flops(CLIP, "embed", 30, 5) == 0
    assert PruMerge(keep=1 / 9).flops(CLIP, "embed", 576, 4096) == 2 * 63 * 576 * 16 * 64


@pytest.mark.parametrize(
    ("pruner", "info"),
    [
        (PruMerge(scores="cls"), QWEN), (PruMerge(tower="clip"), INTERN), (PruMerge(tower="clip"), QWEN),
        (PruMerge(layer=4), CLIP), (PruMerge(neighbours=0), CLIP),
    ],
)  # fmt: skip
def test_what_is_refused(pruner: PruMerge, info: ModelInfo) -> None:
    with pytest.raises(PrunerError):
        pruner.check(info)


@pytest.mark.parametrize("info", [CLIP, QWEN, INTERN], ids=lambda info: info.name)
def test_what_the_model_has_decides(info: ModelInfo) -> None:
    PruMerge().check(info)
    resolved = PruMergePlus().resolved(info)
    assert resolved.resolved(info) == resolved and resolved.signals(info) == PruMergePlus().signals(info)
    assert resolved.tower == ("clip" if info is CLIP else "merged")
