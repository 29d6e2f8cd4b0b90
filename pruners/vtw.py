"""VTW: withdraw all visual tokens in the middle of the language model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from pruners.base import Pruner, PrunerError
from pruners.budget import Layer, resolve_layer
from pruners.fitted import read_fit
from pruners.selection import Selection
from pruners.views import ModelInfo, View

ETA = 0.003


@dataclass(frozen=True, kw_only=True)
class VTW(Pruner):
    """Boosting Multimodal Large Language Models with Visual Tokens Withdrawal for Rapid Inference (arXiv 2405.05803).

    No visual token enters layer K or any after it: by then, text has taken over what it needs. Nothing is scored. The
    layers before K keep all visual tokens in prefill and in their cache; position ids stay, for the reply too ("keep").

    K is found once per model: the first layer whose withdrawal changes the distribution of the first token of the reply
    by at most eta, KL(withdrawn || full) averaged over samples. `vtpbench fit pruner=vtw model=... benchmark=...`
    prints it for every layer; with `out=FILE` and `pruner.fit=FILE` a run takes it from there.

    Stated by the paper: the rule, the criterion, its KL divergence. Of the official code: K = 15 of 32 for
    LLaVA-1.5-7B, 20 samples of one benchmark, the direction of the divergence, ids that stay. It tries layers from 5
    on; here from 1 on, as models may be shallow. Inferred: the default of eta, for which no number is at hand.

    Attributes:
        keep: mean over all layers of the visual tokens there, as a share of all: K is that share of the depth, rounded
            (at least 1).
        layer: K.
        fit: a file of `vtpbench fit`, which K is taken from. One of these three; none means layer 15/32.
        eta: the criterion with `fit`; None means 0.003. `resolved` puts `layer` in the place of both.
    """

    keep: float | None = None
    layer: Layer | None = None
    fit: str | None = None
    eta: float | None = None

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.keep, self.layer, self.fit)) > 1:
            raise PrunerError("give one of keep=, layer= and fit=")
        if self.keep is not None and not 0 < self.keep <= 1:
            raise PrunerError(f"keep must lie in (0, 1], got {self.keep}")
        if self.eta is not None and not self.eta > 0:
            raise PrunerError(f"eta must be above 0, got {self.eta}")

    def check(self, model: ModelInfo) -> None:
        if self.eta is not None and self.fit is None:
            raise PrunerError("eta= picks a layer of a fit; give fit= too")
        super().check(model)

    def resolved(self, model: ModelInfo) -> Self:
        return replace(self, layer=None if self.keep else self.withdrawal(model.depth), fit=None, eta=None)

    def withdrawal(self, depth: int) -> int:
        """K; `depth` where nothing leaves."""
        if self.keep is not None:
            return max(1, round(self.keep * depth))
        if self.fit is None:
            layer = "15/32" if self.layer is None else self.layer
            return resolve_layer(layer, depth, least=0 if isinstance(layer, int) else 1)
        found = first_below(read_fit(self.fit, "VTW", "divergence", depth)[0], self.eta)
        if found is None:
            raise PrunerError(f"no layer of {self.fit} has a divergence of at most eta={self.eta or ETA:g}")
        return found

    def layers(self, depth: int) -> tuple[int, ...]:
        start = self.withdrawal(depth)
        return (start,) if start < depth else ()

    def at_layer(self, view: View) -> Selection:
        return Selection(view.index.new_zeros(0))


def first_below(divergence: list[float], eta: float | None) -> int | None:
    """The first layer, from 1 on, whose divergence is at most eta; None if there is none."""
    return next((layer for layer, kl in enumerate(divergence) if layer and kl <= (eta or ETA)), None)
