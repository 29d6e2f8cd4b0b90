"""FitPrune: drop visual tokens layer by layer, by a schedule that was fitted to what a model's attention can spare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import ClassVar, Self

import torch
from torch import Tensor

from pruners.base import Pruner, PrunerError
from pruners.fitted import read_fit
from pruners.layout import Scope
from pruners.selection import Selection, keep_top
from pruners.signals import Attention, Signal
from pruners.views import ModelInfo, View


@dataclass(frozen=True, kw_only=True)
class FitPrune(Pruner):
    """Fit and Prune: Fast and Training-free Visual Token Pruning for Multi-modal Large Language Models
    (arXiv 2409.10197).

    With A_ij the largest weight of any head in layer l, after softmax, the tokens j of a picture with the lowest
    (1/n sum_i A_ij over visual i) * (sum_i A_ij over text i after the picture) leave, as many as the schedule says.
    Nothing is merged; position ids stay, for the reply too.

    The schedule is fitted once per model (see `Spare`) by `vtpbench fit pruner=fitprune model=... benchmark=...
    out=FILE`; then `pruner.fit=FILE keep=...`. None is shipped; the official ones are counts of 576, for LLaVA-1.5-7B.

    Stated by the paper: schedules that change the attention of visual and of text rows least under a budget, from
    statistics of few samples. Of the official code: the score, and everything in `Spare`. There, tokens leave inside
    layer l, between its attention and its output projection; here at the entrance of layer l + 1, which computes the
    same, as these steps treat every token alone, but one layer more of output projection and MLP is counted.
    Inferred: shares of a picture's N tokens in place of counts, so that a schedule fits every size; deleted tokens are
    rounded down, over all layers so far; without text after the picture visual rows alone decide; several pictures
    are scored by the visual rows of all of them.

    Attributes:
        keep: mean over all layers of the visual tokens there, as a share of N, that `fit` is solved for. The official
            budget is one of FLOPs, which are nearly proportional to it.
        fit: file of `vtpbench fit`; `resolved` reads it and puts `deletes` in its place.
        deletes: shares of N that leave in each layer from the first on; no more leave where it ends. What leaves in the
            last layer changes nothing.
    """

    keep: float | None = None
    fit: str | None = None
    deletes: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.keep is not None and not 0 < self.keep <= 1:
            raise PrunerError(f"keep must lie in (0, 1], got {self.keep}")
        if self.fit is not None and (self.deletes is not None or self.keep is None):
            raise PrunerError("fit= needs keep=, and no deletes=")
        if self.deletes and not (min(self.deletes) >= 0 and sum(self.deletes) <= 1 + 1e-6):
            raise PrunerError(f"deletes are shares of all tokens, whose sum is at most 1, got {list(self.deletes)}")

    def resolved(self, model: ModelInfo) -> Self:
        return replace(self, fit=None, deletes=self._deletes(model.depth)) if self.fit else self

    def check(self, model: ModelInfo) -> None:
        deletes = self._deletes(model.depth)
        if deletes is None:
            raise PrunerError(
                "FitPrune needs a schedule: vtpbench fit pruner=fitprune out=FILE makes one, for pruner.fit=FILE and "
                "keep=; or give pruner.deletes="
            )
        if len(deletes) > model.depth:
            raise PrunerError(f"deletes= has {len(deletes)} layers, {model.name} has {model.depth}")
        mean = 1 - sum(share * (model.depth - 1 - layer) for layer, share in enumerate(deletes)) / model.depth
        if self.keep is not None and abs(mean - self.keep) > 1e-3:
            raise PrunerError(f"deletes= keeps a mean of {mean:.3f} over the layers, not keep={self.keep:.3f}")

    def _deletes(self, depth: int) -> tuple[float, ...] | None:
        if self.fit is None or self.keep is None:
            return self.deletes
        left = schedule(read_fit(self.fit, "FitPrune", "left", depth), self.keep)
        return tuple(round(before - after, 6) for before, after in pairwise(left))

    def layers(self, depth: int) -> tuple[int, ...]:
        deletes = self._deletes(depth) or ()
        return tuple(layer + 1 for layer, share in enumerate(deletes[: depth - 1]) if share)

    def signals(self, model: ModelInfo) -> Sequence[Signal]:
        return [signal for layer in self.layers(model.depth) for signal in attention(layer - 1)]

    def at_layer(self, view: View) -> Selection | None:
        if self.deletes is None or view.layer is None:
            raise PrunerError("FitPrune acts only after resolved(model)")
        full = int(view.state.setdefault(f"tokens of picture {view.picture}", torch.tensor(len(view), device="cpu")))
        k = full - int(full * list(accumulate(self.deletes))[view.layer - 1] + 1e-4)  # 0.1 * 30 must not fall below 3
        if k >= len(view):
            return None
        seen, asked = (view[signal] for signal in attention(view.layer - 1))
        return keep_top(seen * asked if view.sample.text_after else seen, k)


def attention(layer: int) -> tuple[Attention, Attention]:
    """What visual tokens receive from visual rows and from text rows, of the largest head of each row."""
    visual, text = (Attention(layer, rows=rows, head="max", row="sum") for rows in ("visual", "text"))
    return visual, text


def schedule(left: list[list[float]], keep: float) -> list[float]:
    """Share of tokens at the entrance of every layer, `keep` on average.

    Args:
        left: such shares [thresholds, layers], for rising thresholds; they are interpolated linearly.

    Raises:
        PrunerError: the thresholds do not reach so far.
    """
    rows = [[1.0] * len(left[0]), *left]
    means = [sum(row) / len(row) for row in rows]
    for (high, more), (low, less) in pairwise(zip(means, rows, strict=True)):
        if low <= keep <= high:
            share = (high - keep) / (high - low) if high > low else 0.0
            return [a + share * (b - a) for a, b in zip(more, less, strict=True)]
    raise PrunerError(f"keep={keep:.3g} is less than what this fit reaches, {min(means):.3g}")


@dataclass(frozen=True, kw_only=True)
class Spare(Pruner):
    """Drops what a model can spare: the pass that FitPrune's schedule is fitted with, one sample at a time.

    After each layer, visual tokens in ascending order of the attention that they receive from visual rows may leave
    while those left hold (1 - alpha) of the mass that all visual tokens hold in the layer of the unpruned model; the
    same for text rows; those that both lists name leave. Masses are of the largest head, per row. With more alpha more
    may leave; it is bisected until a FLOPs budget is met, and each layer deletes the mean number over the
    samples. All of this is of the official code. Inferred: the mean shares left are stored for many values of alpha and
    interpolated between two, so that one fit serves every budget; several pictures count as one. How many leave depends
    on values, so a device waits once per layer.

    Attributes:
        alpha: share of the mass that may be lost, below 1.
        masses: of visual rows (their mean) and of text rows (their sum), of every layer but the last; without them
            nothing leaves.
    """

    scope: ClassVar[Scope] = "prompt"

    alpha: float = 0.0
    masses: tuple[tuple[float, float], ...] = field(default=(), repr=False)

    def layers(self, depth: int) -> tuple[int, ...]:
        return tuple(range(1, depth)) if self.masses else ()

    def signals(self, model: ModelInfo) -> Sequence[Signal]:
        return [signal for layer in range(model.depth - 1) for signal in attention(layer)]

    def at_layer(self, view: View) -> Selection:
        layer = (view.layer or 0) - 1
        seen, asked = (view[signal] for signal in attention(layer))
        by_visual, by_text = ((1 - self.alpha) * mass for mass in self.masses[layer])
        leaving = lightest(seen / len(view), by_visual) & lightest(asked, by_text)
        return Selection(torch.nonzero(~leaving).flatten())


def lightest(mass: Tensor, least: float) -> Tensor:
    """[n] bool, the lightest of mass [n], as many as can leave so that the others hold at least `least`."""
    order = mass.argsort(stable=True)
    ascending = mass[order].double()
    left = ascending.flip(0).cumsum(0).flip(0) - ascending
    return torch.empty_like(order, dtype=torch.bool).scatter(0, order, left >= least)
