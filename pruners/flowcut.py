"""FlowCut: let tokens leave inside the vision tower, by the attention and values that flow through the class token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pruners.base import Pruner, PrunerError
from pruners.budget import BeforeLLM, Budgeted, Layer, resolve_layer
from pruners.layout import Scope
from pruners.selection import Selection, keep_top
from pruners.signals import Attention, Signal, TowerAttention, TowerValues, Values
from pruners.views import ModelInfo, View


@dataclass(frozen=True, kw_only=True)
class FlowCut(BeforeLLM):
    """FlowCut: Rethinking Redundancy via Information Flow for Efficient Vision-Language Models (arXiv 2505.19536).

    In every tower layer l up to `last`, over the patches j that are left (sums to one are meant over these):

        p_j = attention of the class token, mean over heads, to sum one
        s_j = softmax(v_cls . v_j) over class token and patches, without a scale, mean over heads, to sum one
        f_j = (p_j + s_j) |mean_h v_j|_1,   c = f in layer 0, then c <- c / 2 + f / 2

    After layers last, last - 2, ..., the patches with the highest c go on. Before `last` round((n - target) /
    sqrt(last - l) * (1 - H^2)) of n leave, H the entropy of p over log n: many where attention is narrow; after `last`,
    all but the target. This number is read from the device. The class token stays inside.

    Stated by the paper: information flow, cumulative scores, entropy. Of the official code: everything else, for CLIP:
    last = 21 of 24, one layer before the one whose output is projected. It prunes a batch of crops by the largest
    number any of them drops; here each crop goes by itself. Inferred: towers that merge patches drop whole units by
    their means; without a class token p is the attention received, and the mean of all values stands for v_cls, without
    a share of its own in the softmax. Position ids: see `BeforeLLM`.

    Attributes:
        scores: whose attention; the default is what the model has.
        last: tower layer after which the target is reached, from 0; the default depends on the model.
        llm: None, or the language-model layer at whose entrance `FlowCutLLM` brings each picture to the budget. The
            tower then leaves more: half of a picture's budget in each of its crops (official code for LLaVA-NeXT),
            twice the budget if it has one crop only (for Qwen2-VL). The official code acts on layer 1's attention, and
            has this stage wherever it does not run LLaVA-1.5.
        repaired: see `FlowCutLLM`.
    """

    scope: ClassVar[Scope] = "crop"
    scores: Literal["auto", "cls", "received"] = "auto"
    last: int | None = None
    llm: Layer | None = None
    repaired: bool = False

    def resolved(self, model: ModelInfo) -> Pruner:
        return replace(self._on(model), positions=super().resolved(model).positions)  # type: ignore[attr-defined]

    def _on(self, model: ModelInfo) -> FlowCut:
        return replace(
            self,
            scores=("cls" if model.has_cls else "received") if self.scores == "auto" else self.scores,
            last=max(0, model.tower_depth + model.feature_layer - 1) if self.last is None else self.last,
            llm=None if self.llm is None else resolve_layer(self.llm, model.depth, least=1),
        )

    def check(self, model: ModelInfo) -> None:
        me, running = self._on(model), model.tower_depth + 1 + model.feature_layer
        if me.scores == "cls" and not model.has_cls:
            raise PrunerError(f"{model.name}'s vision tower has no class token")
        if not 0 <= (me.last or 0) < running:
            raise PrunerError(f"last={me.last} does not fit the {running} tower layers that {model.name} runs")
        super().check(model)

    def stages(self) -> tuple[Pruner, ...]:
        if self.llm is None:
            return (self,)
        late = FlowCutLLM(
            keep=self.keep, tokens=self.tokens, layer=self.llm, positions=self.positions, repaired=self.repaired
        )
        return self, late

    def tower_layers(self, depth: int) -> tuple[int, ...]:
        if self.last is None:
            raise PrunerError("FlowCut acts only after resolved(model)")
        return tuple(range(self.last % 2, self.last + 1, 2))

    def signals(self, model: ModelInfo) -> Sequence[Signal]:
        me = self._on(model)
        return tuple(signal for layer in range((me.last or 0) + 1) for signal in me._signals(layer))

    def _signals(self, layer: int) -> tuple[TowerAttention | TowerValues, ...]:
        if self.scores == "cls":
            return TowerAttention(layer, "cls"), TowerValues(layer), TowerValues(layer, rows="cls")
        return TowerAttention(layer, "received"), TowerValues(layer)

    def at_encoder(self, view: View) -> Selection | None:
        layer, last, state = view.layer or 0, self.last or 0, view.state
        if layer < 2:  # crops go through the tower one after the other
            state["crop"] = torch.tensor(len(view), device="cpu")
        for inside in range(max(0, layer - 1), layer + 1):
            p, flow = self._flow(view, inside)
            state["flow"] = flow if inside == 0 else (state["flow"] + flow) / 2
        surplus = len(view) - self._target(view, int(state["crop"]))
        if surplus <= 0:
            return None
        kept = keep_top(state["flow"], len(view) - (surplus if layer == last else leaving(p, surplus, last - layer)))
        state["flow"] = state["flow"][kept.source]
        return kept

    def _flow(self, view: View, layer: int) -> tuple[Tensor, Tensor]:
        """p and f [n] of a tower layer."""
        attention, values, *cls = (view[signal].float() for signal in self._signals(layer))
        p = normalize(attention, p=1, dim=0)
        query = cls[0][:, :1] if cls else values.mean(1, keepdim=True)
        keys = torch.cat([values, query], dim=1) if cls else values
        view.charge(2 * keys.numel())
        s = (keys @ query.transpose(1, 2))[..., 0].softmax(-1).mean(0)
        return p, (p + normalize(s[: len(p)], p=1, dim=0)) * values.mean(0).norm(p=1, dim=1)

    def _target(self, view: View, n: int) -> int:
        """Units that a crop of n of them leaves with."""
        if self.llm is None:
            return self.count(n)
        crops = sum(picture == view.picture for picture, _ in view.sample.layout.grid)
        budget = self.count(n * crops)
        return max(1, budget // 2 if crops > 1 else 2 * budget)

    def at_embed(self, view: View) -> Selection:
        """Only position ids and newlines are left to do here."""
        return Selection(torch.arange(len(view), device=view.index.device), positions=self.positions)


@dataclass(frozen=True, kw_only=True)
class FlowCutLLM(Budgeted):
    """The second stage of FlowCut, inside the language model, for pictures that reach it with many tokens.

    With attention a_h and values v_h inside layer K - 1, r the last prompt token and j the tokens of a picture:

        f_j = (mean_h of a_h(r, j) to sum one over j  +  mean_h softmax_j(v_r . v_j)) |mean_h v_j|_1

    The k highest enter layer K; the budget is a share of what the picture has without pruning. Position ids are
    renumbered on models with one position axis, as in the official code. Inferred: every picture by itself; the last
    instruction token is the last of the prompt; heads of values are those of the cache; K itself.

    Attributes:
        layer: K; the official code reads attention inside layer 1.
        repaired: the official code for Qwen2-VL adds attention that does not sum to one, though it computes the one
            that does. Models with M-RoPE are treated likewise unless this is set; others have no such fault.
    """

    layer: Layer = 2
    positions: Literal["auto", "keep", "renumber"] = "auto"
    repaired: bool = False

    def layers(self, depth: int) -> tuple[int, ...]:
        return (resolve_layer(self.layer, depth, least=1),)

    def signals(self, model: ModelInfo) -> Sequence[Signal]:
        inside = self.layers(model.depth)[0] - 1
        return Attention(inside, head="none"), Values(inside)

    def at_layer(self, view: View) -> Selection | None:
        k = self.count(int((view.sample.layout.picture == (view.picture or 0)).sum()))  # on the CPU
        if k >= len(view):
            return None
        inside = (view.layer or 0) - 1
        attention, values = view[Attention(inside, head="none")], view[Values(inside)].float()
        if self.repaired or len(view.positions) == 1:
            attention = normalize(attention, p=1, dim=1)
        last = torch.arange(len(view.hidden) - 1, len(view.hidden), device=view.index.device)
        query = view.record(Values(inside), last).float()
        relation = (values * query).sum(-1).softmax(-1).mean(0)
        scores = (attention.mean(0) + relation) * values.mean(0).norm(p=1, dim=1)
        return replace(keep_top(scores, k), positions=self.positions)


def leaving(p: Tensor, surplus: int, ahead: int) -> int:
    """How many of the tokens with attention p [n], n > 1, leave, `ahead` layers before the last chance."""
    if p.is_meta:  # no values: as if attention were even
        return 0
    entropy = torch.special.entr(p).sum() / math.log(len(p))
    return round(float(surplus / math.sqrt(ahead) * (1 - entropy**2)))
