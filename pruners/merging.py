"""What methods share that rank tokens by tower attention and merge some of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

from torch import Tensor

from pruners.base import PrunerError
from pruners.selection import Selection, Weights
from pruners.signals import TowerHidden
from pruners.tower import TowerScored, check_output
from pruners.views import ModelInfo, View


@dataclass(frozen=True, kw_only=True)
class Merging(TowerScored):
    """A budgeted method before the language model that reads the tower's last layer and merges tokens.

    Attributes:
        layer: of scores and keys; the last, though LLaVA projects the output of the one before it (`features`).
        tower: where tokens merge: on the tower's output ("clip"), before the projector, or on the embeddings
            ("merged"); "auto" is "clip" where the tower has a class token and one visual token per patch.
        features: the tower layer whose output is projected.
    """

    layer: int | None = -1
    tower: Literal["auto", "clip", "merged"] = "auto"
    features: int | None = None

    def resolved(self, model: ModelInfo) -> Self:
        base, clip = super().resolved(model), model.has_cls and model.unit == 1
        return replace(
            self,
            scores=base.scores,
            layer=base.layer,
            positions=base.positions,
            tower=("clip" if clip else "merged") if self.tower == "auto" else self.tower,
            features=model.feature_layer if self.features is None else self.features,
        )

    def check(self, model: ModelInfo) -> None:
        super().check(model)
        if self.tower == "clip" and (model.unit != 1 or not model.has_cls):
            raise PrunerError(f"{model.name}'s vision tower merges tokens or has no class token: tower=clip cannot be")
        if self.features is not None:
            check_output(model, self.features)

    @property
    def hidden(self) -> tuple[TowerHidden, ...]:
        """The signal that is merged, if it is one; exists after `resolved`."""
        if self.features is None:
            raise PrunerError(f"{type(self).__name__} acts only after resolved(model)")
        return (TowerHidden(self.features),) if self.tower == "clip" else ()

    def rows(self, view: View) -> Tensor:
        """[n, width] what is merged."""
        return view[self.hidden[0]] if self.hidden else view.features

    def merged(self, view: View, source: Tensor, weights: Weights) -> Selection:
        """The selection of rows W x, projected behind the merge where x is the tower's output."""
        if not self.hidden:
            return Selection(source, weights, self.positions)
        rows = weights.apply(self.rows(view), len(source)).to(view.hidden.dtype)
        return Selection(source, weights, self.positions, features=view.project(rows))
