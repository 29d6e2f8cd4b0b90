"""DSTP: bring dropped visual tokens back while decoding, whenever the attention to the kept ones has shifted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from pruners.base import Pruner, PrunerError
from pruners.budget import Layer, resolve_layer
from pruners.compose import Pipeline
from pruners.none import Blind, NoPruning
from pruners.signals import Attention, Signal
from pruners.steps import DRAWS, drawn, draws, highest
from pruners.views import ModelInfo, Recall, State, StepView, View, Visible
from pruners.vtw import VTW


@dataclass(frozen=True, kw_only=True)
class DSTP(Pruner):
    """DSTP (arXiv 2604.12358), an add-on to any method that drops tokens in prefill. Equation-faithful: there is no
    official code to compare with.

    P are the visual tokens that `base` kept, R the dropped ones; a_S(t) is the attention of the token of step t to the
    keys of S alone, head-reduced, at one monitored layer (Eq. 4), and the anchor a_P(0) that of the last prompt token.
    RISD triggers when cos(a_P(0), a_P(t)) < tau (Eq. 5). CPTS then takes the top |P| of [a_P(t); a_R(t)] (Eq. 6) beside
    P (Eq. 7) for the next L steps, after which P alone is visible again and RISD resumes (Algorithm II).

    Inferred, as the paper leaves it open: layer and heads of the attention, how dropped tokens get keys and values, and
    that tokens written meanwhile keep theirs. Position ids are never renumbered: a base whose `positions` are "auto"
    runs with "keep".

    Attributes:
        base: the method whose dropped tokens come back.
        tau, L: threshold and length of a spell in steps, as tuned in the paper.
        layer: the monitored layer; None takes the first at which the base drops tokens, or 2 if it acts before layer 0.
        head: how the heads' attentions are joined.
        joint: one softmax over P and R instead of one each (Eq. 6 compares two that each sum to one).
        trigger: "risd"; "average" (below the running mean of the similarities so far); "random" (with chance `rate`).
        swap: what a spell shows: "cpts" P and the chosen; "full" everything; "hard" the chosen alone; "merge" the
            chosen and one token with the mean key and value of P.
        reversion: back to P after L steps; otherwise a new choice is made every L steps from the first trigger on.
        recall: see `pruners.views.Recall`; "dense" is an upper bound that saves nothing in prefill.
    """

    base: Pruner
    tau: float = 0.75
    L: int = 20
    layer: Layer | None = None
    head: Literal["mean", "max"] = "mean"
    joint: bool = False
    trigger: Literal["risd", "average", "random"] = "risd"
    rate: float = 0.05
    swap: Literal["cpts", "full", "hard", "merge"] = "cpts"
    reversion: bool = True
    recall: Recall = "recompute"
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", _keeping_positions(self.base))
        if self.L < 1:
            raise PrunerError(f"L must be at least 1 step, got {self.L}")
        if not 0 <= self.rate <= 1:
            raise PrunerError(f"rate must lie in [0, 1], got {self.rate}")

    def check(self, model: ModelInfo) -> None:
        """Raise PrunerError if the base drops nothing, or what cannot come back."""
        for stage in self.base.stages():
            name = type(stage).__name__
            late = {"picture", "encoder", "cache", "step"} & set(stage.moments())
            if isinstance(stage, NoPruning | Blind | VTW):
                raise PrunerError(f"DSTP needs a base that keeps some visual tokens and drops others, not {name}")
            if late:
                raise PrunerError(f"DSTP cannot bring back what {name} drops at the {min(late)} moment")
            if type(stage).bias is not Pruner.bias:
                raise PrunerError(f"DSTP cannot bring back tokens whose attention {name} gives to others")
            if getattr(stage, "positions", "keep") != "keep":
                raise PrunerError(f"DSTP brings tokens back under their own ids, but {name} renumbers")
            if stage.makes and (last := max(stage.layers(model.depth))) > self.step_layer(model.depth):
                raise PrunerError(
                    f"{name} makes tokens up to layer {last}, which have no keys in layer "
                    f"{self.step_layer(model.depth)} that DSTP watches; addon.layer={last} does"
                )
        self.base.check(model)
        self.step_layer(model.depth)
        cuts = sum(("embed" in stage.moments()) + len(stage.layers(model.depth)) for stage in self.base.stages())
        if self.recall == "dense" and cuts > 1:
            raise PrunerError("recall=dense needs a base that drops tokens once")

    def resolved(self, model: ModelInfo) -> Pruner:
        return replace(self, base=self.base.resolved(model))

    def recalls(self) -> Recall:
        return self.recall

    def stages(self) -> tuple[Pruner, ...]:
        return (*self.base.stages(), self)

    def step_layer(self, depth: int) -> int:
        if self.layer is not None:
            return resolve_layer(self.layer, depth)
        return (*self.base.layers(depth), min(2, depth - 1))[0]

    def signals(self, model: ModelInfo) -> Sequence[Signal]:
        return (Attention(self.step_layer(model.depth), rows="last", keys="visual", head="none"),)

    def state_spec(self, model: ModelInfo) -> dict[str, tuple[int | Literal["N"], ...]]:
        spec: dict[str, tuple[int | Literal["N"], ...]] = {"anchor": ("N",), "left": (), "sum": (), "count": ()}
        return spec | ({"draws": (DRAWS,)} if self.trigger == "random" else {})

    def begin(self, view: View) -> State:
        """The anchor: weights over the full causal row, renormalised over P head by head."""
        weights = view[Attention(view.layer or 0, rows="last", keys="visual", head="none")]
        total = weights.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        anchor = weights.new_zeros(int(view.column.max()) + 1 if len(view) else 0)
        anchor[view.column] = self._heads(weights / total)
        return {"anchor": anchor} | (draws(view, self.seed) if self.trigger == "random" else {})

    def at_step(self, view: StepView) -> Visible:
        old = view.state
        kept = self._attention(view.logits, view.kept)
        similarity = cosine_similarity(old["anchor"], kept, dim=1)
        watching = old["left"] == 0
        fires = watching & self._shifted(view, similarity) & view.kept.any(1)
        if not self.reversion:
            fires = fires | (old["left"] == 1)
        left = torch.where(fires, float(self.L), (old["left"] - 1).clamp(min=0))
        state = {
            "left": left,
            "sum": old["sum"] + torch.where(watching, similarity, 0.0),
            "count": old["count"] + watching.float(),
        }
        over = (old["left"] == 1) & ~fires
        mask = torch.where(over[:, None], view.kept, view.visible)
        return Visible(mask, 0, "next", state, left > 0 if self.swap == "merge" else None, fires)

    def _shifted(self, view: StepView, similarity: Tensor) -> Tensor:
        """[S] slots whose attention has moved away from the anchor."""
        if self.trigger == "random":
            return drawn(view.state, view.step) < self.rate
        if self.trigger == "average":
            return similarity < view.state["sum"] / view.state["count"].clamp(min=1)
        return similarity < self.tau

    def at_trigger(self, view: StepView, slots: Tensor) -> Tensor:
        """CPTS: what a spell shows."""
        kept, reserve = self._attention(view.logits, view.kept), view.reserve()
        dropped = ~reserve[:, 0].isinf() & ~view.kept
        if self.joint:
            logits = torch.where(view.kept[:, None], view.logits, reserve)
            score = self._attention(logits, view.kept | dropped)
        else:
            score = torch.where(view.kept, kept, self._attention(reserve, dropped))
        score = score.masked_fill(~(view.kept | dropped), -torch.inf)
        top = highest(score, view.kept.sum(1))
        if self.swap == "full":
            return view.kept | dropped
        return view.kept | top if self.swap == "cpts" else top

    def _attention(self, logits: Tensor, over: Tensor) -> Tensor:
        """[S, Nv] softmax over the chosen columns alone, heads joined; zeros elsewhere and where there are none."""
        return self._heads(logits.masked_fill(~over[:, None], -torch.inf).softmax(-1).nan_to_num())

    def _heads(self, weights: Tensor) -> Tensor:
        return weights.mean(-2) if self.head == "mean" else weights.amax(-2)


def _keeping_positions(base: Pruner) -> Pruner:
    if isinstance(base, Pipeline):
        return replace(base, methods=tuple(map(_keeping_positions, base.methods)))
    return replace(base, positions="keep") if getattr(base, "positions", None) == "auto" else base  # type: ignore[call-arg]
