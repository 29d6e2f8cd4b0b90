"""VisionZip in both forms against plain Python loops."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from harness.engine.segment import Segment
from harness.golden.scene import prune
from pruners import ModelInfo, PrunerError, Selection
from pruners.signals import Signal, TowerAttention, TowerHidden, TowerKeys
from pruners.visionzip import VisionZip, merged, reassemble

CLIP = ModelInfo(name="clip", depth=2, tower_depth=4, has_cls=True, feature_layer=-2)
QWEN = ModelInfo(name="qwen", depth=2, tower_depth=4, unit=4, axes=3)
INTERN = replace(QWEN, name="intern", has_cls=True, axes=1)


class Token(NamedTuple):
    """A new token: the old one that it continues and the old ones averaged into it."""

    source: int
    members: list[int]


def loops(
    scores: list[float], keys: list[list[float]], dominant: int, contextual: int
) -> tuple[list[int], list[Token]]:
    """Dominant tokens in raster order, and contextual tokens in raster order."""
    top = sorted(sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:dominant])
    rest = [i for i in range(len(scores)) if i not in top]
    if contextual == 0:
        return top, []
    step = max(1, len(rest) // contextual)
    targets = [rest[j * step] for j in range(contextual)]
    members: dict[int, list[int]] = {t: [] for t in targets}

    def cosine(a: list[float], b: list[float]) -> float:
        return math.fsum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))

    for i in rest:
        if i not in targets:
            members[max(targets, key=lambda t: cosine(keys[i], keys[t]))].append(i)
    return top, [Token(t, members[t]) for t in targets]


def summed(hidden: Tensor, token: Token) -> Tensor:
    """The target plus the mean of what went there."""
    return hidden[token.source] + (hidden[token.members].mean(0) if token.members else 0)


class Case(NamedTuple):
    """Random hidden states [3 + n + 2, 5] with signals of a tower with two heads of three channels."""

    hidden: Tensor
    scores: Tensor
    keys: Tensor
    cls: Tensor

    @classmethod
    def of(cls, n: int, seed: int) -> Case:
        g = Generator().manual_seed(seed)
        return cls(
            torch.randn(n + 5, 5, generator=g), torch.rand(n, generator=g), torch.randn(2, n, 3, generator=g),
            torch.randn(5, generator=g),
        )  # fmt: skip

    def run(self, pruner: VisionZip, info: ModelInfo) -> tuple[Selection | None, Segment]:
        n = len(self.scores)
        signals: dict[Signal, Tensor] = {TowerKeys(info.feature_layer): self.keys}
        for rows, head in (("cls", "sum"), ("cls", "mean"), ("received", "mean")):
            if rows == ("cls" if info.has_cls else "received"):
                signals[TowerAttention(info.feature_layer, rows, head)] = self.scores  # type: ignore[arg-type]
        if info.unit == 1:
            signals[TowerHidden(info.feature_layer)] = (
                2 * self.hidden[3 : 3 + n]
            )  # what the tower made is another thing
            signals[TowerHidden(info.feature_layer, rows="cls")] = self.cls.expand(n, -1)
        return prune(pruner, self.hidden, 3, n, info, signals)


SHARES = st.sampled_from([0.0, 0.05, 10 / 64, 0.5, 0.9])


@given(st.integers(2, 24), st.integers(0, 10_000), SHARES, st.data())
def test_before_the_projector(n: int, seed: int, contextual: float, data: st.DataObject) -> None:
    """Class token, dominant patches, contextual tokens; dominant counts the class token."""
    case, k = Case.of(n, seed), data.draw(st.integers(1, n - 1))
    pruner = VisionZip(keep=None, tokens=k, contextual=contextual)
    selection, after = case.run(pruner, CLIP)
    merges = min(k - 1, round(k * contextual))
    top, tokens = loops(case.scores.tolist(), case.keys.mean(0).tolist(), k - merges - 1, merges)
    tower = 2 * case.hidden[3 : 3 + n]
    want = torch.stack([case.cls, *tower[top], *(summed(tower, token) for token in tokens)])
    assert selection is not None and selection.weights is not None and selection.size is not None
    assert selection.source.tolist() == [-1, *top, *(token.source for token in tokens)]
    assert selection.size.tolist() == [1] * (1 + len(top)) + [1 + len(token.members) for token in tokens]
    torch.testing.assert_close(after.hidden, torch.cat([case.hidden[:3], want, case.hidden[-2:]]))
    assert after.positions.tolist() == [list(range(k + 5))]
    # The weights tell the same story, but for the class token, which no visual token went into.
    torch.testing.assert_close(selection.mix(tower)[1:], want[1:])
    assert not selection.mix(tower)[0].any()


@given(st.integers(2, 24), st.integers(0, 10_000), SHARES, st.sampled_from([QWEN, INTERN]), st.data())
def test_on_embeddings(n: int, seed: int, contextual: float, info: ModelInfo, data: st.DataObject) -> None:
    """Everything in raster order; ids of the full prompt under M-RoPE."""
    case, k = Case.of(n, seed), data.draw(st.integers(1, n - 1))
    selection, after = case.run(VisionZip(keep=None, tokens=k, contextual=contextual), info)
    merges = min(k - 1, round(k * contextual))
    top, tokens = loops(case.scores.tolist(), case.keys.mean(0).tolist(), k - merges, merges)
    visual = case.hidden[3 : 3 + n]
    rows = {i: visual[i] for i in top} | {token.source: summed(visual, token) for token in tokens}
    kept = sorted(rows)
    assert selection is not None and selection.source.tolist() == kept and selection.features is None
    want = torch.cat([case.hidden[:3], torch.stack([rows[i] for i in kept]), case.hidden[-2:]])
    torch.testing.assert_close(after.hidden, want)
    assert after.index.tolist() == [0, 1, 2, *(3 + i for i in kept), n + 3, n + 4]
    ids = after.index.tolist() if info.axes == 3 else list(range(k + 5))
    assert after.positions.tolist() == [ids] * info.axes
    members = {token.source: 1 + len(token.members) for token in tokens}
    assert after.size.tolist() == [1, 1, 1, *(members.get(i, 1) for i in kept), 1, 1]


@pytest.mark.parametrize("info", [CLIP, QWEN, INTERN], ids=lambda info: info.name)
@pytest.mark.parametrize("budget", [{"keep": 1.0}, {"keep": None, "tokens": 9}, {"keep": None, "tokens": 99}], ids=str)
def test_nothing_happens_within_the_budget(info: ModelInfo, budget: dict[str, float | None]) -> None:
    selection, after = Case.of(9, 0).run(VisionZip(**budget), info)  # type: ignore[arg-type]
    assert selection is None and len(after) == 14


def test_a_budget_of_one() -> None:
    """The class token where it is kept, else the best token."""
    case = Case.of(9, 0)
    selection, after = case.run(VisionZip(keep=0.01), CLIP)
    assert selection is not None and selection.source.tolist() == [-1]
    torch.testing.assert_close(after.hidden[3], case.cls)
    selection, _ = case.run(VisionZip(keep=0.01), QWEN)
    assert selection is not None and selection.source.tolist() == [int(case.scores.argmax())]


def test_ties_go_to_the_lower_index() -> None:
    """Equal scores, and keys that are equally similar to all targets."""
    made = merged(torch.ones(8), torch.ones(8, 2), dominant=2, contextual=3)
    assert made.source.tolist() == [0, 1, 2, 4, 6]
    assert made.weights.rows.tolist() == [0, 1, 2, 3, 4, 2, 2, 2]
    assert made.weights.cols.tolist() == [0, 1, 2, 4, 6, 3, 5, 7]
    torch.testing.assert_close(made.weights.values, torch.tensor([1.0] * 5 + [1 / 3] * 3))


def test_counts_of_the_paper() -> None:
    """LLaVA-1.5, one crop of LLaVA-NeXT, and the ratios of the Qwen2.5-VL branch."""
    clip = VisionZip(tower="clip")
    for k, counts in {192: (162, 30), 128: (108, 20), 64: (54, 10), 32: (27, 5), 1: (1, 0)}.items():
        assert replace(clip, keep=None, tokens=k).counts(576) == replace(clip, keep=k / 576).counts(576) == counts
    assert VisionZip(tower="merged", keep=1 / 3).counts(300) == (int(300 * 0.2812), int(300 * 0.0521)) == (84, 15)
    assert VisionZip(tower="merged", keep=1 / 9).counts(300) == (int(300 * 0.0937), int(300 * 0.0174)) == (28, 5)
    assert VisionZip(tower="merged", keep=0.01).counts(30) == (1, 0)
    assert VisionZip(tower="merged", keep=0.1, contextual=0.0).counts(30) == (3, 0)


def test_what_the_model_has_decides() -> None:
    """Everything explicit after `resolved`; twice is once."""
    forms = {info.name: VisionZip().resolved(info) for info in (CLIP, QWEN, INTERN, replace(CLIP, has_cls=False))}
    assert forms["qwen"] == VisionZip(tower="merged", scores="received", layer=-1, positions="keep")
    assert forms["intern"] == VisionZip(tower="merged", scores="cls", layer=-1, positions="renumber")
    assert VisionZip().resolved(CLIP) == VisionZip(tower="clip", scores="cls", layer=-2, positions="renumber")
    assert forms["clip"] == VisionZip(tower="merged", scores="received", layer=-2, positions="renumber")
    for info in (CLIP, QWEN, INTERN):
        VisionZip().check(info)
        assert VisionZip().resolved(info).resolved(info) == VisionZip().resolved(info)
        assert VisionZip().signals(info) == VisionZip().resolved(info).signals(info)


@pytest.mark.parametrize(
    ("pruner", "info"),
    [(VisionZip(tower="clip"), QWEN), (VisionZip(tower="clip"), INTERN), (VisionZip(scores="cls"), QWEN)],
)
def test_what_a_tower_cannot_do(pruner: VisionZip, info: ModelInfo) -> None:
    with pytest.raises(PrunerError):
        pruner.check(info)


@pytest.mark.parametrize("contextual", [-0.1, 1.0, 2.0])
def test_bad_shares(contextual: float) -> None:
    with pytest.raises(PrunerError, match="contextual"):
        VisionZip(contextual=contextual)


@pytest.mark.parametrize("overview", [False, True])
@pytest.mark.parametrize(("width", "height"), [(2, 2), (3, 1), (1, 3), (2, 3)])
def test_reassembly(width: int, height: int, overview: bool) -> None:
    """Patches of a grid of crops of 4 x 4, told apart by their place in the whole picture."""
    side, dominant, contextual = 4, 6, 2
    g = Generator().manual_seed(width)
    crops, kept, patches = [], [], {}
    names: dict[str, list[float]] = {"cls": [], "contextual": []}
    if overview:
        crops.append(torch.arange(1000.0, 1008.0))
        kept.append(torch.arange(dominant))
    for crop in range(width * height):
        chosen = torch.randperm(side * side, generator=g)[: dominant - 1]
        row = [100.0 + crop]
        for patch in sorted(chosen.tolist()):
            y, x = crop // width * side + patch // side, crop % width * side + patch % side
            row.append(1e4 + y * 100 + x)
            patches[y, x] = row[-1]
        row += [200.0 + 2 * crop, 201.0 + 2 * crop]
        names["cls"].append(row[0])
        names["contextual"] += row[-contextual:]
        crops.append(torch.tensor(row))
        kept.append(torch.cat([torch.tensor([0]), 1 + chosen]))
    out = reassemble(torch.stack(crops)[..., None], torch.stack(kept), width, height, side).flatten().tolist()
    first = crops[0].tolist() if overview else []
    assert out == [*first, *(patches[place] for place in sorted(patches)), *names["cls"], *names["contextual"]]


def test_reassembly_needs_a_full_grid() -> None:
    with pytest.raises(ValueError, match="2 x 2"):
        reassemble(torch.zeros(3, 8, 1), torch.zeros(3, 4, dtype=torch.long), 2, 2)
