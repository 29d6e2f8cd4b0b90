"""VisionPulse: at every decode step, choose anew which cached visual keys the later layers read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pruners.base import Pruner, PrunerError
from pruners.budget import Layer, resolve_layer
from pruners.steps import DRAWS, drawn, draws, highest
from pruners.views import ModelInfo, State, StepView, View, Visible


@dataclass(frozen=True, kw_only=True)
class VisionPulse(Pruner):
    """VisionPulse (arXiv 2605.31457). Prefill is dense and the KV cache stays whole.

    With z the logits of the new token at the anchor layer, mass = max over heads of the share that softmax(z / tau)
    over all keys gives to visual keys. The floor(clamp(mass, low, high) * N) visual keys with the highest head-mean of
    z (before softmax), at least one, stay visible at the anchor layer and all later ones, in this step only. Checked
    against the official code (eager path).

    Attributes:
        anchor: the layer that decides; layer 17 of 36 in the official code.
        tau: temperature of the mass.
        low, high: clamp of the budget, as shares of the visual keys.
        budget: "mass" (the rule above); "fixed" (always `high`); "random" (uniform in [low, high]); "top_p" (the fewest
            keys with a share `p` of the head-mean attention among visual keys, clamped too). The last three are the
            ablation's; what they mean exactly is inferred.
        block: keys per block, or None. The official speed variant (64) is a rule of its own: keys are counted in blocks
            from the start of the cache, only blocks full of visual keys can be hidden, the
            ceil(share * N / block) of them with the most attention (head mean, softmax over all keys; inferred) stay,
            and the anchor layer itself reads everything.
    """

    anchor: Layer = "17/36"
    tau: float = 0.1
    low: float = 0.01
    high: float = 0.05
    budget: Literal["mass", "fixed", "random", "top_p"] = "mass"
    p: float = 0.9
    block: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise PrunerError(f"needs 0 <= low <= high <= 1, got low={self.low} and high={self.high}")
        if self.tau <= 0 or not 0 < self.p <= 1:
            raise PrunerError(f"needs tau > 0 and p in (0, 1], got tau={self.tau} and p={self.p}")
        if self.block is not None and self.block < 1:
            raise PrunerError(f"block must be at least 1 key, got {self.block}")

    def check(self, model: ModelInfo) -> None:
        self.step_layer(model.depth)

    def step_layer(self, depth: int) -> int:
        return resolve_layer(self.anchor, depth)

    def state_spec(self, model: ModelInfo) -> dict[str, tuple[int | Literal["N"], ...]]:
        return {"draws": (DRAWS,)} if self.budget == "random" else {}

    def begin(self, view: View) -> State:
        return draws(view, self.seed) if self.budget == "random" else {}

    def at_step(self, view: StepView) -> Visible:
        n = view.valid.sum(1)
        if self.block is not None:
            return Visible(self._blocks(view, self.block, n), view.layer + 1)
        wanted = self.count(view, n).floor().long().clamp(min=1).minimum(n)
        most = int(self.high * view.logits.shape[-1]) + 1  # float32 may round the product up
        return Visible(highest(view.logits.mean(1), wanted), view.layer, most=most)

    def mass(self, view: StepView) -> Tensor:
        """[S] visual attention mass at temperature tau, the highest of the heads."""
        visual = (view.logits / self.tau).logsumexp(-1)
        return (visual - torch.logaddexp(visual, view.rest(self.tau))).exp().amax(1)

    def count(self, view: StepView, n: Tensor) -> Tensor:
        """[S] visual keys to keep of n, before rounding."""
        if self.budget == "top_p":
            share = view.logits.softmax(-1).nan_to_num().mean(1).sort(descending=True).values
            fewest = ((share.cumsum(1) - share) < self.p).sum(1)
            return torch.maximum(torch.minimum(fewest.float(), self.high * n), self.low * n)
        if self.budget == "fixed":
            ratio = view.logits.new_full((len(n),), self.high)
        elif self.budget == "random":
            ratio = self.low + (self.high - self.low) * drawn(view.state, view.step)
        else:
            ratio = self.mass(view).clamp(self.low, self.high)
        return ratio * n

    def _blocks(self, view: StepView, size: int, n: Tensor) -> Tensor:
        """[S, Nv] the mask of the speed variant."""
        block = view.place // size
        count = -(-view.longest // size)
        own = torch.zeros(len(n), count, device=n.device)
        droppable = own.scatter_add(1, block, view.valid.float()) == size
        everything = torch.logaddexp(view.logits.logsumexp(-1), view.rest(1.0))
        attention = (view.logits - everything[..., None]).exp().mean(1)
        score = own.scatter_add(1, block, attention).masked_fill(~droppable, -torch.inf)
        wanted = (self.count(view, n) / size).ceil()
        return (highest(score, wanted) | ~droppable).gather(1, block)
