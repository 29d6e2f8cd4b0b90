"""Hyper-parameters that most methods share: how many tokens to keep, and at which layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from pruners.base import Pruner, PrunerError
from pruners.views import ModelInfo

Layer = int | str | float
"""A layer number, or a depth fraction such as "2/32" (of the paper's model), which transfers to other depths."""


@dataclass(frozen=True, kw_only=True)
class Budgeted(Pruner):
    """A method with a budget: `keep` is the kept share in (0, 1], `tokens` a count per scope group; never both."""

    keep: float | None = 1 / 3
    tokens: int | None = None

    def __post_init__(self) -> None:
        if self.tokens is not None and self.keep is not None:
            raise PrunerError(f"give keep= or tokens=, not both (got keep={self.keep}, tokens={self.tokens})")
        if self.tokens is None and self.keep is None:
            raise PrunerError("needs keep= (a share in (0, 1]) or tokens= (a count)")
        if self.keep is not None and not 0 < self.keep <= 1:
            raise PrunerError(f"keep must lie in (0, 1], got {self.keep}")
        if self.tokens is not None and self.tokens < 1:
            raise PrunerError(f"tokens must be at least 1, got {self.tokens}")

    def count(self, n: int) -> int:
        """Tokens to keep of n; at least one. Methods with another rounding override this."""
        wanted = self.tokens if self.tokens is not None else round((self.keep or 1.0) * n)
        return min(n, max(1, wanted))


@dataclass(frozen=True, kw_only=True)
class BeforeLLM(Budgeted):
    """A budgeted method that acts before the language model; `positions` is what becomes of position ids.

    "auto" does what the official implementations do: they renumber on LLaVA, whose shorter sequence simply counts on,
    and keep the ids of the full prompt under M-RoPE.
    """

    positions: Literal["auto", "keep", "renumber"] = "auto"

    def resolved(self, model: ModelInfo) -> Pruner:
        return replace(self, positions="keep" if model.axes > 1 else "renumber") if self.positions == "auto" else self


def resolve_layer(layer: Layer, depth: int, least: int = 0) -> int:
    """A layer number from a number or a depth fraction.

    A fraction is rounded to the nearest layer and kept within [least, depth - 1]; a number must exist as it is.

    Raises:
        PrunerError: the model has no such layer, or the text is not a fraction.
    """
    if isinstance(layer, int):
        if not least <= layer < depth:
            raise PrunerError(f"layer {layer} does not fit a model of {depth} layers ({least} to {depth - 1})")
        return layer
    try:
        share = Fraction(layer)
    except (TypeError, ValueError, ZeroDivisionError):
        raise PrunerError(f'layer must be a number or a depth fraction such as "2/32", got {layer!r}') from None
    if not 0 <= share <= 1:
        raise PrunerError(f"a depth fraction lies in 0..1, got {layer}")
    return min(depth - 1, max(least, round(share * depth)))
