"""FlowCut in the tower and in the language model against plain Python loops; golden files run it on a whole tower."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Generator, Tensor

from harness.engine import Decoding, Engine, Request
from harness.golden.scene import Bare, prefill
from pruners import FlowCut, ModelInfo, PrunerError, Sample, View, VisualLayout
from pruners.flowcut import FlowCutLLM
from pruners.signals import Attention, Signal, TowerAttention, TowerValues, Values
from tests.tiny import CONFIGS, Prompted

CLIP = ModelInfo(name="clip", depth=4, tower_depth=8, has_cls=True, feature_layer=-2)
QWEN = ModelInfo(name="qwen", depth=4, tower_depth=7, unit=4, axes=3)
HEADS, WIDTH = 2, 3


class Tower:
    """Random attention, and values of the tokens and the class token, of every layer of a tower."""

    def __init__(self, n: int, seed: int, sharp: float) -> None:
        g = Generator().manual_seed(seed)
        self.attention = (sharp * torch.randn(8, n, generator=g)).softmax(1) * 0.9
        self.values = torch.randn(8, HEADS, n, WIDTH, generator=g)
        self.cls = torch.randn(8, HEADS, 1, WIDTH, generator=g)

    def read(self, signal: Signal, token: Tensor) -> Tensor:
        if isinstance(signal, TowerAttention):
            return self.attention[signal.layer][token]
        assert isinstance(signal, TowerValues)
        if signal.rows == "cls":
            return self.cls[signal.layer].expand(-1, len(token), -1)
        return self.values[signal.layer][:, token]


def view(layer: int, token: Tensor, n: int, tower: Tower, state: dict[str, Tensor], spent: list[int]) -> View:
    hidden = torch.zeros(len(token), 1)
    sample = Sample(
        id="s", layout=VisualLayout.of_grids([(1, n)]), visual=torch.arange(n), length=n, text_after=0, embeds=hidden,
        question="", needed=(), generator=lambda seed: Generator().manual_seed(seed),
    )  # fmt: skip
    return View(
        sample=sample, layer=layer, picture=0, column=token, index=torch.arange(len(token)), hidden=hidden,
        positions=torch.zeros(0, len(token)), size=torch.ones(len(token)), state=state,
        record=lambda signal, at: tower.read(signal, token[at]),
        qk=lambda _: (hidden, hidden), final_norm=lambda x: x, project=lambda x: x, charge=spent.append,
    )  # fmt: skip


def pruned(pruner: FlowCut, info: ModelInfo, n: int, tower: Tower) -> tuple[list[list[int]], int]:
    """Tokens left after every layer at which the method acts, and the FLOPs of its rule."""
    pruner.check(info)
    method, token, out = pruner.resolved(info), torch.arange(n), list[list[int]]()
    state, spent = dict[str, Tensor](), list[int]()
    for layer in method.tower_layers(info.tower_depth):
        chosen = method.at_encoder(view(layer, token, n, tower, state, spent))
        token = token if chosen is None else token[chosen.source]
        out.append(token.tolist())
    return out, sum(spent)


def softmax(x: list[float]) -> list[float]:
    shares = [math.exp(v - max(x)) for v in x]
    return [share / math.fsum(shares) for share in shares]


def unit_sum(x: list[float]) -> list[float]:
    return [v / math.fsum(x) for v in x]


def dot(a: list[float], b: list[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def size_of_mean(heads: list[list[float]]) -> float:
    """L1 norm of the mean of one token's values."""
    return math.fsum(abs(math.fsum(channel) / len(heads)) for channel in zip(*heads, strict=True))


def loops(tower: Tower, n: int, target: int, last: int, has_cls: bool) -> tuple[list[list[int]], int]:
    token, score, out, products = list(range(n)), dict[int, float](), list[list[int]](), 0
    for layer in range(last + 1):
        values = tower.values[layer].double().tolist()
        p = unit_sum([float(tower.attention[layer][t]) for t in token])
        by_head = []
        for h in range(HEADS):
            rows = [values[h][t] for t in token]
            middle = [math.fsum(channel) / len(rows) for channel in zip(*rows, strict=True)]
            query = tower.cls[layer, h, 0].double().tolist() if has_cls else middle
            by_head.append(softmax([dot(row, query) for row in ([*rows, query] if has_cls else rows)]))
            products += 2 * WIDTH * (len(rows) + has_cls)
        s = unit_sum([math.fsum(column) / HEADS for column in list(zip(*by_head, strict=True))[: len(token)]])
        for i, t in enumerate(token):
            flow = (p[i] + s[i]) * size_of_mean([values[h][t] for h in range(HEADS)])
            score[t] = flow if layer == 0 else 0.5 * score[t] + 0.5 * flow
        if (last - layer) % 2:
            continue
        surplus = len(token) - target
        if surplus > 0:
            entropy = -math.fsum(x * math.log(x) for x in p) / math.log(len(p))
            wanted = surplus / math.sqrt(max(1, last - layer)) * (1 - entropy**2)
            assume(layer == last or abs(wanted % 1 - 0.5) > 1e-4)  # float32 rounds either way there
            gone = surplus if layer == last else round(wanted)
            token = sorted(sorted(token, key=lambda t: (-score[t], t))[: len(token) - gone])
        out.append(token)
    return out, products


@given(st.integers(1, 50), st.integers(0, 10_000), st.sampled_from([0.0, 1.0, 4.0]), st.booleans(), st.data())
def test_equals_loops(n: int, seed: int, sharp: float, has_cls: bool, data: st.DataObject) -> None:
    """With and without class token, even and narrow attention, towers whose first layer is the first to act or not."""
    info = CLIP if has_cls else QWEN
    last = data.draw(st.sampled_from([None, 0, 1, 4, 5]))
    tokens, tower = data.draw(st.integers(1, n)), Tower(n, seed, sharp)
    assert pruned(FlowCut(keep=None, tokens=tokens, last=last), info, n, tower) == loops(
        tower, n, tokens, 5 if last is None else last, has_cls
    )


def test_ties_go_to_the_lower_index() -> None:
    tower = Tower(9, 0, 0.0)
    tower.values[:] = 1.0
    assert pruned(FlowCut(keep=1 / 3), CLIP, 9, tower)[0][-1] == [0, 1, 2]


def test_what_the_model_has_decides() -> None:
    """One layer before the projected one; in towers of two layers the first."""
    assert FlowCut().resolved(CLIP) == FlowCut(scores="cls", last=5, positions="renumber")
    assert FlowCut().resolved(QWEN) == FlowCut(scores="received", last=5, positions="keep")
    llava = replace(CLIP, tower_depth=24)
    assert FlowCut().resolved(llava).tower_layers(24) == tuple(range(1, 22, 2))
    assert FlowCut(llm="2/32").resolved(CLIP).stages()[1:] == (FlowCutLLM(layer=1, positions="renumber"),)
    assert FlowCut().resolved(replace(QWEN, tower_depth=2)).tower_layers(2) == (0,)
    with pytest.raises(PrunerError, match="resolved"):
        FlowCut().tower_layers(24)


@pytest.mark.parametrize(
    ("pruner", "info", "reason"),
    [
        (FlowCut(scores="cls"), QWEN, "no class token"), (FlowCut(last=7), CLIP, "last=7"),
        (FlowCut(last=-1), CLIP, "last=-1"), (FlowCut(llm=4), CLIP, "layer 4"), (FlowCut(llm=0), CLIP, "layer 0"),
    ],
)  # fmt: skip
def test_refusals(pruner: FlowCut, info: ModelInfo, reason: str) -> None:
    with pytest.raises(PrunerError, match=reason):
        pruner.check(info)


class Speaking(Bare):
    """Layers that change nothing, with random attention and values in layer 1."""

    def layer(self, k: int, hidden: Tensor, rope: tuple[Tensor, Tensor], attention: Any) -> Tensor:
        if k == 1:
            ids, record, g = attention.segments[0].ids, attention.records[0][0], Generator().manual_seed(len(hidden[0]))
            self.paid = torch.rand(4, len(ids), generator=g).softmax(1)
            self.values = torch.randn(HEADS, len(ids), WIDTH, generator=g)
            record.values[Attention(1, head="none")] = (self.paid, ids)
            record.values[Values(1)] = (self.values, ids)
        return hidden


@given(st.integers(2, 30), st.integers(0, 5), st.booleans(), st.sampled_from([CLIP, QWEN]), st.data())
def test_inside_the_language_model(n: int, text: int, repaired: bool, info: ModelInfo, data: st.DataObject) -> None:
    """Grouped values, and on M-RoPE attention that does not sum to one unless that is repaired."""
    model, k = Speaking(info, torch.zeros(3 + n + text, 2)), data.draw(st.integers(1, n - 1))
    method = FlowCutLLM(keep=None, tokens=k, repaired=repaired)
    segment = prefill(model, method, torch.arange(3 + n + text), 3, n).segment
    paid, values = model.paid[:, 3 : 3 + n].double().tolist(), model.values.double().tolist()
    if repaired or info.axes == 1:
        paid = [unit_sum(row) for row in paid]
    similar = [softmax([dot(row, heads[-1]) for row in heads[3 : 3 + n]]) for heads in values]
    scores = [
        (math.fsum(row[j] for row in paid) / 4 + math.fsum(row[j] for row in similar) / HEADS)
        * size_of_mean([heads[3 + j] for heads in values])
        for j in range(n)
    ]
    kept = sorted(sorted(range(n), key=lambda j: (-scores[j], j))[:k])
    assert segment.column.tolist() == kept and segment.visual_per_layer == [n, n, k, k]
    ids = [0, 1, 2, *(3 + j for j in kept), *range(3 + n, 3 + n + text)]
    assert segment.positions.tolist() == [ids if info.axes > 1 else list(range(3 + k + text))] * info.axes


def test_both_stages_meet_the_budget() -> None:
    """A picture of three crops of 16 units: half of the budget in each, then the budget; one crop: twice the budget."""
    for grid, crops in (((2, 1), 3), ((1, 1), 1)):
        model, n = Prompted(CONFIGS["internvl"], "cpu", [grid], noise=0.2), 16 * crops  # type: ignore[abstract]
        (trace,) = Engine(model).run([Request("r", ())], FlowCut(keep=1 / 4, llm=2), Decoding(max_new_tokens=1))
        k = n // 4
        assert trace.error is None
        assert trace.visual_per_layer == [*[crops * (k // 2) if crops > 1 else 2 * k] * 2, *[k] * 3]
