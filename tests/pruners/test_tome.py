"""ToMe's matching and its schedules against plain Python; tests/engine/test_tower.py runs it in whole towers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from pruners import ModelInfo, PrunerError, Sample, ToMe, View, VisualLayout
from pruners.signals import TowerKeys
from pruners.tome import merged

CLIP = ModelInfo(name="clip", depth=4, tower_depth=8, has_cls=True, feature_layer=-2)
QWEN = ModelInfo(name="qwen", depth=4, tower_depth=5, unit=4, axes=3)


def match(metric: list[list[float]], r: int, cls: bool) -> list[list[int]]:
    """One step in plain Python: the tokens that make up each new row, the one that it continues first."""

    def cosine(i: int, j: int) -> float:
        return math.fsum(x * y for x, y in zip(metric[i], metric[j], strict=True)) / norms[i] / norms[j]

    norms = [math.hypot(*x) for x in metric]
    sequence = [-1] * cls + list(range(len(metric)))
    a, b = [i for i in sequence[::2] if i >= 0], sequence[1::2]
    near = {i: max((cosine(i, j), -j) for j in b) for i in a if b}
    ranked = sorted(near, key=lambda i: (-near[i][0], i))
    r = min(r, (len(sequence) - cls) // 2)
    if not r:
        return [[i] for i in range(len(metric))]
    rows = {i: [i] for i in [*(sorted(ranked[r:]) if cls else ranked[r:]), *b]}
    for i in sorted(ranked[:r]):
        rows[-near[i][1]].append(i)
    return list(rows.values())


@given(seed=st.integers(0, 9999), n=st.integers(2, 23), r=st.integers(1, 12), cls=st.booleans(), coarse=st.booleans())
def test_one_step(seed: int, n: int, r: int, cls: bool, coarse: bool) -> None:
    """Random metrics, and ones of few values so that many tie."""
    g = Generator().manual_seed(seed)
    metric = torch.eye(3)[torch.randint(3, (n,), generator=g)] if coarse else torch.randn(n, 3, generator=g)
    size = torch.randint(1, 5, (n,), generator=g).float()
    x, k = torch.randn(n, 4, generator=g), min(r, n // 2)
    before = metric.clone(), size.clone()
    selection, rows = merged(metric, size, k, cls), match(metric.tolist(), r, cls)
    assert torch.equal(metric, before[0]) and torch.equal(size, before[1])
    assert selection.source.tolist() == [row[0] for row in rows] and len(rows) == n - k
    assert selection.sizes(size).tolist() == [sum(size[i].item() for i in row) for row in rows]
    for got, row in zip(selection.rows(x), rows, strict=True):
        torch.testing.assert_close(got, sum(size[i] * x[i] for i in row) / sum(size[i] for i in row))


def crop(n: int, layer: int, state: dict[str, Tensor], spent: list[int]) -> View:
    """A crop of n tokens with random keys of two heads of three channels."""
    hidden = torch.zeros(n, 1)
    sample = Sample(
        id="s", layout=VisualLayout.of_grids([(1, n)]), visual=torch.arange(n), length=n, text_after=0, embeds=hidden,
        question="", needed=(), generator=lambda seed: Generator().manual_seed(seed),
    )  # fmt: skip
    return View(
        sample=sample, layer=layer, picture=0, column=torch.arange(n), index=torch.arange(n), hidden=hidden,
        positions=torch.zeros(0, n), size=torch.ones(n), state=state,
        record=lambda signal, at: torch.randn(2, n, 3, generator=Generator().manual_seed(7))[:, at],
        qk=lambda _: (hidden, hidden), final_norm=lambda x: x, project=lambda x: x, charge=spent.append,
    )  # fmt: skip


def counts(pruner: ToMe, model: ModelInfo, n: int) -> list[int]:
    """Tokens left after every layer that merges."""
    pruner.check(model)
    method, out, state = pruner.resolved(model), [n], dict[str, Tensor]()
    assert method.signals(model) == tuple(TowerKeys(layer) for layer in method.tower_layers(model.tower_depth))
    for layer in method.tower_layers(model.tower_depth):
        spent: list[int] = []
        selection = method.at_encoder(crop(out[-1], layer, state, spent))
        a = (out[-1] + (not method.class_token)) // 2  # those of A that can merge
        assert spent == ([] if selection is None else [2 * a * (out[-1] - a) * 3])
        out.append(out[-1] if selection is None else len(selection))
    return out[1:]


def test_schedules() -> None:
    """By hand; CLIP runs 7 of its 8 layers, Qwen's tower all 5."""
    assert counts(ToMe(), CLIP, 200) == [184, 168, 152, 136, 120, 104, 88]
    assert counts(ToMe(r=4, inflection=-1), CLIP, 50) == [42, 36, 31, 27, 25, 24]  # 8, 6, 5, 4, 2, 1, 0
    assert counts(ToMe(r=4, inflection=1), QWEN, 50) == [48, 44, 38, 30]  # 0, 2, 4, 6, 8
    assert counts(ToMe(r=(3, 0, 2)), QWEN, 20) == [17, 15]
    assert counts(ToMe(r=9), QWEN, 11) == [6, 3, 2, 1, 1]  # never more than half
    assert counts(ToMe(keep=0.4), QWEN, 25) == [22, 19, 16, 13, 10]
    assert counts(ToMe(tokens=4), CLIP, 30) == [27, 23, 19, 16, 12, 8, 4]  # 26 i / 7 rounded down
    assert counts(ToMe(tokens=1), QWEN, 30) == [25, 19, 13, 7, 4]
    assert counts(ToMe(tokens=90), QWEN, 30) == [30] * 5
    assert counts(ToMe(keep=0.5, last=1), QWEN, 30) == [23, 15]


def test_attention_knows_sizes_once_there_are_any() -> None:
    size = torch.tensor([1.0, 2.0, 5.0])
    method = ToMe(r=(0, 2, 0, 1)).resolved(QWEN)
    assert [method.tower_bias(layer, size) is None for layer in range(5)] == [True, True, False, False, False]
    assert torch.equal(method.tower_bias(2, size), size.log())  # type: ignore[arg-type]
    assert ToMe(r=0).resolved(QWEN).tower_bias(4, size) is None


def test_position_ids() -> None:
    """One axis: renumbered, since the order is a new one; three axes: kept."""
    view = crop(5, 0, {}, [])
    kept = ToMe().resolved(QWEN).at_embed(view)  # newlines, where there are any, leave with it
    assert kept.positions == "keep" and kept.source.tolist() == list(range(len(view)))
    selection = ToMe().resolved(CLIP).at_embed(view)
    assert selection is not None and selection.positions == "renumber" and selection.source.tolist() == [0, 1, 2, 3, 4]


def test_refused() -> None:
    for bad in ({"keep": 0.5, "r": 8}, {"keep": 0.5, "tokens": 3}, {"keep": 0.0}, {"tokens": 0}, {"r": -1},
                {"r": (3, -1)}, {"inflection": 2.0}, {"r": (3, 2), "inflection": 1.0},
                {"keep": 0.5, "inflection": 1.0}):  # fmt: skip
        with pytest.raises(PrunerError):
            ToMe(**bad)  # type: ignore[arg-type]
    for method, model in (
        (ToMe(last=7), CLIP), (ToMe(r=(1,) * 8), CLIP), (ToMe(last=-1), QWEN), (ToMe(class_token=True), QWEN),
    ):  # fmt: skip
        with pytest.raises(PrunerError):
            method.check(model)
    with pytest.raises(PrunerError, match="resolved"):
        ToMe().tower_layers(8)
    ToMe(last=6).check(CLIP)
    assert ToMe(r=16).resolved(CLIP) == ToMe().resolved(CLIP) == ToMe().resolved(CLIP).resolved(CLIP)
