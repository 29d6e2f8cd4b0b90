"""Several methods on one model."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pruners.base import MOMENTS, Pruner, PrunerError
from pruners.lookm import LookM
from pruners.mustdrop import MustDrop
from pruners.none import Blind, NoPruning
from pruners.signals import Signal, TowerSignal
from pruners.views import ModelInfo
from pruners.vlcache import VLCache


@dataclass(frozen=True, kw_only=True)
class Pipeline(Pruner):
    """Methods one after the other, each seeing what the one before left."""

    methods: tuple[Pruner, ...]

    def stages(self) -> tuple[Pruner, ...]:
        return tuple(stage for method in self.methods for stage in method.stages())

    def resolved(self, model: ModelInfo) -> Pruner:
        return replace(self, methods=tuple(method.resolved(model) for method in self.methods))

    def layers(self, depth: int) -> tuple[int, ...]:
        return tuple(sorted({k for method in self.methods for k in method.layers(depth)}))

    def check(self, model: ModelInfo) -> None:
        """Raise PrunerError unless the methods can act one after the other."""
        stages = self.stages()
        if len(stages) < 2:
            raise PrunerError("a pipeline needs at least two methods")
        for stage in stages:
            stage.check(model)
            if isinstance(stage, Blind | NoPruning):
                raise PrunerError(
                    f"{type(stage).__name__} cannot be part of a pipeline: nothing is left for the others"
                )
        if any(method.recalls() for method in self.methods):
            raise PrunerError("what brings tokens back wraps the whole pipeline and is no part of it")
        first = [min(map(MOMENTS.index, stage.moments()), default=0) for stage in stages]
        if first != sorted(first):
            order = ", ".join(type(stage).__name__ for stage in stages)
            raise PrunerError(f"a pipeline lists methods in the order in which they act; got {order}")
        if sum("step" in stage.moments() for stage in stages) > 1:
            raise PrunerError("only one method of a pipeline can act during decoding")
        if sum("encoder" in stage.moments() for stage in stages) > 1:
            raise PrunerError("only one method of a pipeline can act inside the vision tower")
        if sum("cache" in stage.moments() for stage in stages) > 1:
            names = " and ".join(type(stage).__name__ for stage in stages if "cache" in stage.moments())
            raise PrunerError(f"only one method of a pipeline can edit the cache, not {names}")
        biased = [type(stage).__name__ for stage in stages if type(stage).bias is not Pruner.bias]
        if len(biased) > 1:
            raise PrunerError(f"only one method of a pipeline can add to attention logits, not {' and '.join(biased)}")
        for early in stages:
            for late in stages if isinstance(early, LookM | VLCache) else ():
                if "step" in late.moments() or (isinstance(early, LookM) and type(late).bias is not Pruner.bias):
                    raise PrunerError(
                        f"{type(late).__name__} needs the same entries in all layers and heads, which "
                        f"{type(early).__name__} does not leave"
                    )
            for late in stages if isinstance(early, MustDrop) and early.cut_cache else ():
                if late.makes:
                    raise PrunerError(
                        f"MustDrop cuts caches to what lasts, which lack tokens that {type(late).__name__} makes; "
                        "cut_cache=false does not"
                    )
        for i, early in enumerate(stages):
            for late in stages[i + 1 :] if early.hands_on_made(model) else ():
                if signal := _lost(early, late, model):
                    raise PrunerError(
                        f"{type(early).__name__} makes tokens that {signal} does not have, which "
                        f"{type(late).__name__} reads; put it last"
                    )


def _lost(early: Pruner, late: Pruner, model: ModelInfo) -> Signal | None:
    """A signal of the later method that is recorded before the earlier one has acted for the last time."""

    def acts(stage: Pruner) -> list[int]:
        """Layers before which it acts; -1 stands for the embeddings."""
        return [*([-1] if "embed" in stage.moments() else []), *stage.layers(model.depth)]

    if not acts(early) or not acts(late):
        return None
    times = [t for t in acts(early) if t <= max(acts(late))]
    for signal in late.resolved(model).signals(model):
        recorded = -2 if isinstance(signal, TowerSignal) else signal.layer
        if any(recorded < t for t in times):
            return signal
    return None
