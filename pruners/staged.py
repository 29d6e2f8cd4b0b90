"""Methods that drop visual tokens in several layers of the language model, by a schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch

from pruners.base import Pruner, PrunerError
from pruners.budget import Layer, resolve_layer
from pruners.selection import Selection
from pruners.views import ModelInfo, View


@dataclass(frozen=True, kw_only=True)
class Staged(Pruner):
    """A method that drops visual tokens at the entrance of several layers. The native parameters are a schedule.

    A budget takes its place: `keep` and `tokens` are then the mean number of visual tokens over all layers, the full
    ones before the first stage included. Unless the class says otherwise this is inferred: one ratio for all stages,
    found by bisection, and counts rounded down as in the schedule, so that the mean is met to within a token. A share
    that the layers before the first stage exceed is refused; a count that they exceed gets as near as they let it.

    Attributes:
        keep, tokens: that budget, as a share of a picture's N tokens or as a count; None leaves the schedule alone.
        drop_at: the layers, ascending; None takes the class's own. Where a shallow model has one layer for several
            stages, only the last of them acts.
        ratios: what each stage keeps, as the class defines it; None takes the class's own.
        depth: layers of the model; `resolved` fills it in.
    """

    SCHEDULE: ClassVar[tuple[tuple[Layer, ...], tuple[float, ...]]] = (), ()
    BUDGET_LAYERS: ClassVar[tuple[Layer, ...]] = ()
    EARLIEST: ClassVar[int] = 0

    keep: float | None = None
    tokens: int | None = None
    drop_at: tuple[Layer, ...] | None = None
    ratios: tuple[float, ...] | None = None
    depth: int | None = None

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.keep, self.tokens, self.ratios)) > 1:
            raise PrunerError("give one of keep=, tokens= (means over the layers) and ratios=")
        if self.keep is not None and not 0 < self.keep <= 1:
            raise PrunerError(f"keep must lie in (0, 1], got {self.keep}")
        if self.tokens is not None and self.tokens < 1:
            raise PrunerError(f"tokens must be at least 1, got {self.tokens}")
        if not all(0 <= ratio <= 1 for ratio in self.ratios or ()):
            raise PrunerError(f"ratios must lie in [0, 1], got {list(self.ratios or ())}")
        if not self._budgeted and len(self._layers) != len(self._ratios):
            raise PrunerError(f"{len(self._layers)} layers need as many ratios, got {len(self._ratios)}")

    @property
    def _budgeted(self) -> bool:
        return self.keep is not None or self.tokens is not None

    @property
    def _layers(self) -> tuple[Layer, ...]:
        return self.drop_at or (self.BUDGET_LAYERS if self._budgeted else self.SCHEDULE[0])

    @property
    def _ratios(self) -> tuple[float, ...]:
        return self.SCHEDULE[1] if self.ratios is None else self.ratios

    def shares(self, ratios: Sequence[float]) -> tuple[float, ...]:
        """Share of a picture's N tokens that is left after each stage."""
        raise NotImplementedError

    def even(self, ratio: float, stages: int) -> tuple[float, ...]:
        """Ratios of a schedule under a budget, non-decreasing in `ratio`."""
        raise NotImplementedError

    def chosen(self, view: View, k: int) -> Selection:
        """The k tokens of a view, fewer than it has, that enter its layer."""
        raise NotImplementedError

    def starts(self, depth: int) -> tuple[int, ...]:
        """The layer of every stage; a depth fraction gives at least 1, before which nothing has read the question."""
        given = [(layer, self.EARLIEST if isinstance(layer, int) else 1) for layer in self._layers]
        found = tuple(resolve_layer(layer, depth, least) for layer, least in given)
        if list(found) != sorted(found) or found[0] < self.EARLIEST:
            raise PrunerError(f"drop_at must ascend from layer {self.EARLIEST} on, got {list(found)} of {depth} layers")
        return found

    def layers(self, depth: int) -> tuple[int, ...]:
        return tuple(sorted(set(self.starts(depth))))

    def resolved(self, model: ModelInfo) -> Self:
        return replace(self, depth=model.depth, drop_at=self.starts(model.depth))

    def check(self, model: ModelInfo) -> None:
        starts = self.starts(model.depth)
        if self.keep is not None and self.keep * model.depth <= starts[0]:
            raise PrunerError(
                f"keep={self.keep:.3g} is the mean over all layers, of which the {starts[0]} before the first stage "
                f"alone are {starts[0] / model.depth:.3g} on {model.name}; give an earlier drop_at="
            )

    def left(self, n: int, depth: int) -> dict[int, int]:
        """Visual tokens, of n, that enter each stage's layer; at least one, however small the ratio."""
        starts = self.starts(depth)
        ratios = self.budget_ratios(n, depth) if self._budgeted else self._ratios
        shares = zip(starts, self.shares(ratios), strict=True)
        return {start: max(1, int(share * n + 1e-9)) for start, share in shares}  # 0.1 * 30 must not fall below 3

    def budget_ratios(self, n: int, depth: int) -> tuple[float, ...]:
        """Ratios with which the mean over the layers is the budget."""
        wanted, starts = self.keep if self.tokens is None else self.tokens / n, self.starts(depth)
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            if mean_share(starts, self.shares(self.even(middle, len(starts))), depth) < (wanted or 0):
                low = middle
            else:
                high = middle
        return self.even(high, len(starts))

    def at_layer(self, view: View) -> Selection | None:
        if self.depth is None or view.layer is None:
            raise PrunerError(f"{type(self).__name__} acts only after resolved(model)")
        # Shares are of what the picture had at the first stage; a CPU tensor, so that reading it waits for no device.
        full = view.state.setdefault(f"tokens of picture {view.picture}", torch.tensor(len(view), device="cpu"))
        k = self.left(int(full), self.depth)[view.layer]
        return self.chosen(view, k) if k < len(view) else None


def mean_share(starts: Sequence[int], shares: Sequence[float], depth: int) -> float:
    """Mean over `depth` layers of the share of tokens there, all of them before the first start."""
    ends = (*starts[1:], depth)
    return (starts[0] + sum(s * (end - start) for s, start, end in zip(shares, starts, ends, strict=True))) / depth
