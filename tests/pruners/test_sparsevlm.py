"""SparseVLM against plain Python loops, step by step, and its schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from harness.engine.segment import Segment
from harness.golden.scene import Bare, prefill
from pruners import ModelInfo, PrunerError, SparseVLM, SparseVLMPlus
from pruners.signals import Attention, Keys
from pruners.sparsevlm import Rated, clusters, raters

LLAMA = ModelInfo(name="llama", depth=4, tower_depth=2)
QWEN = replace(LLAMA, name="qwen", axes=3)
START = 3
Rows = list[list[float]]


class Attentive(Bare):
    """Layers that change nothing and whose text pays random attention [H, T, n] to the picture.

    Attributes:
        backwards: the same heads, last first.
        seen: what entered each layer: hidden states, position ids, and attention over the visual tokens.
    """

    def __init__(self, info: ModelInfo, table: Tensor, text: int, heads: int, seed: int) -> None:
        super().__init__(info, table)
        self.text, self.heads = text, heads
        self.random, self.backwards = Generator().manual_seed(seed), False
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def layer(self, k: int, hidden: Tensor, rope: tuple[Tensor, Tensor], attention: Any) -> Tensor:
        segment, record = attention.segments[0], attention.records[0][0]
        paid = torch.rand(self.heads, self.text, segment.visual_count, generator=self.random)
        paid = paid.flip(0) if self.backwards else paid
        ids = segment.ids[segment.visual]
        record.values[Attention(k, rows="text", head="mean", row="none")] = (paid.mean(0), ids)
        record.values[Attention(k, rows="text", head="none", row="none")] = (paid, ids)
        record.values[Keys(k)] = (torch.zeros(1, len(ids), 8), ids)
        self.seen.append((segment.hidden, segment.positions, paid))
        return hidden


def run(
    pruner: Rated, n: int, text: int, seed: int, info: ModelInfo = LLAMA, backwards: bool = False, width: int = 5
) -> tuple[Attentive, Segment]:
    """A picture of n tokens behind START others, before `text` others."""
    table = torch.randn(START + n + text, width, generator=Generator().manual_seed(seed))
    model = Attentive(info, table, text, 3, seed)
    model.backwards = backwards
    return model, prefill(model, pruner, torch.arange(len(table)), START, n).segment


def rated(embeds: Rows, n: int) -> list[int]:
    """Numbers of the raters among the text."""
    visual, text = embeds[START : START + n], embeds[START + n :]
    total = [0.0] * len(text)
    for v in visual:
        logits = [math.fsum(a * b for a, b in zip(v, t, strict=True)) for t in text]
        shares = [math.exp(x - max(logits)) for x in logits]
        total = [old + share / math.fsum(shares) / n for old, share in zip(total, shares, strict=True)]
    chosen = [t for t, value in enumerate(total) if value > math.fsum(total) / len(total)]
    return chosen or list(range(len(text)))


def merged(points: Rows, count: int) -> list[tuple[int, list[int]]]:
    """Centre and members of every cluster, DPC-KNN in loops."""
    m, width = len(points), len(points[0])
    distance = [[math.dist(a, b) / math.sqrt(width) for b in points] for a in points]
    density = [math.exp(-math.fsum(d * d for d in sorted(row)[:count]) / count) for row in distance]
    largest = max(max(row) for row in distance)
    value = []
    for i in range(m):
        denser = [distance[i][j] for j in range(m) if density[j] > density[i] * (1 + 1e-12)]
        value.append(density[i] * min(denser, default=largest))
    centers = sorted(range(m), key=lambda i: (-value[i], i))[:count]
    members: dict[int, list[int]] = {c: [] for c in centers}
    for i in range(m):
        members[i if i in centers else min(centers, key=lambda c: distance[i][c])].append(i)
    return list(members.items())


def step(rows: Rows, scores: Sequence[float], k: int) -> tuple[list[int], Rows, list[int]]:
    """Kept tokens, made rows, and the tokens at the centre of these."""
    n = len(rows)
    order = sorted(range(n), key=lambda i: (-scores[i], i))
    best = order[k : k + int(0.3 * (n - k)) + 1]
    made, centers = [], []
    for center, members in merged([rows[i] for i in best], len(best) // 10 + 1):
        total = [math.fsum(rows[best[i]][c] for i in members) for c in range(len(rows[0]))]
        made.append([x / (len(members) + 1e-6) for x in total])
        centers.append(best[center])
    return sorted(order[:k]), made, centers


def check_steps(pruner: SparseVLM, n: int, text: int, seed: int, info: ModelInfo) -> None:
    """What enters layers 1, 2 and 3 follows from what left the layer before."""
    model, segment = run(pruner, n, text, seed, info)
    chosen = rated(model.seen[0][0].tolist(), n)
    assert segment.states[0]["raters"].nonzero().flatten().tolist() == chosen
    count = n
    for layer, k in zip((1, 2, 3), pruner.schedule(n), strict=True):
        (before, ids, paid), (after, new_ids, _) = model.seen[layer - 1], model.seen[layer]
        k = min(k, count - 1)
        visual = before[START : START + count]
        scores = paid.double()[:, chosen].mean((0, 1)).tolist()
        kept, made, centers = step(visual.double().tolist(), scores, k)
        want = torch.cat([before[:START], visual[kept], torch.tensor(made), before[START + count :]])
        wanted_ids = torch.cat(
            [ids[:, :START], ids[:, START:][:, [*kept, *centers]], ids[:, START + count :]], dim=1
        )  # fmt: skip
        order = list(range(len(after)))
        if len(made) == 2 and (after[START + k] - want[START + k]).abs().max() > 1e-4:  # two centres tie
            order[START + k], order[START + k + 1] = order[START + k + 1], order[START + k]
        torch.testing.assert_close(after[order], want)
        assert new_ids[:, order].tolist() == (
            wanted_ids.tolist() if info.axes > 1 else [[*order]]
        )  # fmt: skip
        count = k + len(made)
    assert model.seen[3][2].shape[2] == count == segment.visual_count


@given(st.integers(2, 60), st.integers(1, 6), st.integers(0, 10_000), st.sampled_from([LLAMA, QWEN]))
def test_equals_loops(n: int, text: int, seed: int, info: ModelInfo) -> None:
    """Raters, kept tokens, clusters, ids: small pictures, down to one token."""
    keep = 0.05 + (seed % 19) / 20
    if round(keep * n) < n:
        check_steps(SparseVLM(keep=keep), n, text, seed, info)


def test_many_clusters() -> None:
    """A picture of LLaVA's size: 9, 4 and 3 clusters, 309, 204 and 113 tokens."""
    check_steps(SparseVLM(keep=1 / 3), 576, 12, 0, LLAMA)
    for budget, left in {192: [309, 204, 113], 128: [312, 117, 39], 64: [82, 32, 18]}.items():
        _, segment = run(SparseVLM(keep=None, tokens=budget), 576, 12, 0)
        assert segment.visual_per_layer == [576, *left]
        assert segment.next_position == START + left[-1] + 12


@given(st.integers(1, 40), st.integers(0, 10_000), st.data())
def test_clusters(m: int, seed: int, data: st.DataObject) -> None:
    """Any number of them, up to one for every point."""
    count = data.draw(st.integers(1, m).filter(lambda c: c != 2))
    x = torch.randn(m, 4, generator=Generator().manual_seed(seed))
    found = clusters(x, count)
    groups = {
        c: [i for i in range(m) if found.label[i] == j] for j, c in enumerate(found.centers.tolist())
    }  # fmt: skip
    assert groups == dict(merged(x.double().tolist(), count))


def test_the_size_of_a_made_token_is_what_went_into_it() -> None:
    _, segment = run(SparseVLM(drop_at=(2,)), 40, 4, 1)
    kept = SparseVLM().schedule(40)[2]
    recycled = int(0.3 * (40 - kept)) + 1
    assert segment.size.sum() == START + kept + recycled + 4 and segment.size[START : START + kept].eq(1).all()


def test_noise_is_seeded_and_reaches_the_clusters_alone() -> None:
    """Equal densities: only noise tells the points apart."""
    corners = torch.cat([torch.eye(6), torch.eye(6)])
    noise = torch.arange(12.0)
    assert clusters(corners, 3, noise).centers.tolist() != clusters(corners, 3, -noise).centers.tolist()
    pruner = SparseVLM(keep=0.2, noise=True, seed=4)
    (quiet, _), (first, _), (again, _) = (run(p, 90, 4, 5) for p in (SparseVLM(keep=0.2), pruner, pruner))
    torch.testing.assert_close(first.seen[3][0], again.seen[3][0], rtol=0, atol=0)
    assert [x.shape for x, _, _ in quiet.seen] == [x.shape for x, _, _ in first.seen]
    kept = pruner.schedule(90)[0]
    torch.testing.assert_close(quiet.seen[1][0][: START + kept], first.seen[1][0][: START + kept])


def test_all_text_rates_when_none_stands_out() -> None:
    assert raters(torch.randn(5, 3), torch.ones(1, 3)).tolist() == [1]
    assert raters(torch.zeros(5, 3), torch.randn(4, 3)).tolist() == [1] * 4


@pytest.mark.parametrize("method", [SparseVLM, SparseVLMPlus])
def test_nothing_happens(method: type[Rated]) -> None:
    """No text behind the picture, one token alone, and a budget of everything."""
    for pruner, n, text in ((method(), 9, 0), (method(), 1, 3), (method(keep=1.0), 9, 3)):
        assert run(pruner, n, text, 0)[1].visual_per_layer == [n] * 4
    assert run(method(keep=None, tokens=99), 9, 3, 0)[1].visual_per_layer == [9] * 4


@pytest.mark.parametrize("method", [SparseVLM(keep=0.3), SparseVLMPlus(keep=0.3, heads=2)])
def test_order_of_heads_does_not_matter(method: Rated) -> None:
    (one, _), (other, _) = (run(method, 50, 4, 7, backwards=backwards) for backwards in (False, True))
    assert [torch.equal(a[0], b[0]) for a, b in zip(one.seen, other.seen, strict=True)] == [True] * 4


def test_schedules() -> None:
    """Published counts; between them and for other pictures in proportion."""
    for budget, counts in {64: (66, 30, 17), 96: (238, 48, 26), 128: (303, 110, 36), 192: (300, 200, 110)}.items():
        assert SparseVLM(keep=None, tokens=budget).schedule(576) == SparseVLM(keep=budget / 576).schedule(576) == counts
    assert SparseVLM(keep=1 / 9).schedule(1152) == (132, 60, 34)
    assert SparseVLM(keep=None, tokens=80).schedule(576) == (152, 39, 22)  # halfway: 21.5 is rounded to even
    assert SparseVLM(keep=None, tokens=32).schedule(576) == (33, 15, 8)
    assert SparseVLM(keep=0.001).schedule(576) == (1, 1, 1)
    assert SparseVLM(keep=1.0).schedule(7) == SparseVLM(keep=None, tokens=99).schedule(7) == (7, 7, 7)
    assert SparseVLMPlus(keep=1 / 3).schedule(576) == (300, 200, 118)


def test_layers() -> None:
    """Fractions stay apart; numbers have to; the last steps are those that a very shallow model has."""
    pruner = SparseVLM(keep=1 / 9)
    assert [pruner.layers(d) for d in (32, 36, 4, 2)] == [(3, 7, 16), (3, 8, 18), (1, 2, 3), (1,)]
    shallow = pruner.resolved(replace(LLAMA, depth=2))
    assert shallow == shallow.resolved(replace(LLAMA, depth=2))
    _, segment = run(pruner, 576, 4, 0, replace(LLAMA, depth=2))
    assert segment.visual_per_layer == [576, 17 + int(0.3 * 559) // 10 + 1]
    for bad in ((3, 3, 4), (2, 7, 16), (0,)):
        with pytest.raises(PrunerError, match="does not fit"):
            SparseVLM(drop_at=bad).check(LLAMA)
    with pytest.raises(PrunerError, match="one to three"):
        SparseVLM(drop_at=(1, 2, 3, 4))
    with pytest.raises(PrunerError, match="not both"):
        SparseVLM(tokens=64)


def test_positions() -> None:
    """What the model has decides, unless it is given."""
    assert [SparseVLM().resolved(info).positions for info in (LLAMA, QWEN)] == ["renumber", "keep"]  # type: ignore[attr-defined]
    kept = SparseVLM(positions="keep").resolved(LLAMA)
    assert isinstance(kept, SparseVLM) and kept.positions == "keep"
    _, segment = run(kept, 40, 4, 3)
    assert segment.positions[0, -4:].tolist() == [43, 44, 45, 46] and segment.next_position == 47
