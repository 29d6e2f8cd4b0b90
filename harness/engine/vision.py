"""Vision features: computed once per picture, shared by all methods that do not act inside the tower."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from harness.engine.parts import Part
from harness.engine.samples import make_sample
from harness.engine.signals import token_axis
from harness.engine.trace import Request
from harness.models.base import Features, Model, PictureInput, Prompt, Select, TowerHooks
from pruners.base import Pruner
from pruners.selection import Selection
from pruners.signals import Signal, TowerSignal
from pruners.views import State, View


class FeatureCache:
    """Least recently used features within a number of bytes."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0
        self.entries: OrderedDict[str, Features] = OrderedDict()

    def get(self, key: str, signals: Sequence[Signal]) -> Features | None:
        """Features of a picture, if all of the signals were recorded with them."""
        found = self.entries.get(key)
        if found is None or not set(signals) <= set(found.signals):
            return None
        self.entries.move_to_end(key)
        return found

    def put(self, key: str, features: Features) -> None:
        if key in self.entries:
            self.used -= _bytes(self.entries.pop(key))
        self.entries[key] = features
        self.used += _bytes(features)
        while self.used > self.limit and self.entries:
            self.used -= _bytes(self.entries.popitem(last=False)[1])


def _bytes(features: Features) -> int:
    tensors = [features.tokens, features.deepstack, *(value for value, _ in features.signals.values())]
    return sum(t.numel() * t.element_size() for t in tensors)


class Vision:
    """Runs the tower for one method, through the cache unless the method acts inside the tower."""

    def __init__(self, model: Model, pruner: Pruner, cache: FeatureCache, part: Part) -> None:
        self.model, self.cache, self.part = model, cache, part
        self.stages = [s for s in pruner.stages() if "encoder" in s.moments()]
        self.biased = [s for s in pruner.stages() if type(s).tower_bias is not Pruner.tower_bias]
        self.signals = tuple(
            dict.fromkeys(
                s for stage in pruner.stages() for s in stage.signals(model.info) if isinstance(s, TowerSignal)
            )
        )

    @torch.inference_mode()
    def features(self, request: Request, prompt: Prompt) -> list[Features]:
        """Features of every picture of a prompt."""
        with self.part("vision"):
            if self.stages or self.biased:
                return [self._acting(request, prompt, number) for number in range(len(prompt.pictures))]
            return [self._shared(picture) for picture in prompt.pictures]

    def _shared(self, picture: PictureInput) -> Features:
        found = self.cache.get(picture.key, self.signals) if picture.key else None
        if found is None:
            before = self.cache.entries.get(picture.key)  # its signals are made again, so that methods may take turns
            signals = dict.fromkeys([*self.signals, *(before.signals if before else ())])
            found = self.model.encode(picture, tuple(signals), part=self.part)
            if picture.key:
                self.cache.put(picture.key, found)
        # Another method may have left further signals there, which are not this one's cost.
        return replace(found, overhead=sum(found.costs.get(signal, 0) for signal in self.signals))

    def _acting(self, request: Request, prompt: Prompt, number: int) -> Features:
        """Features under methods that act inside the tower."""
        inside = replace(prompt, layout=prompt.units or prompt.layout)
        sample = make_sample(request, inside, self.model.embed(prompt.ids))
        start = int((inside.layout.picture < number).sum())
        states: dict[int, State] = {id(stage): stage.start(sample) for stage in self.stages}
        overhead = 0

        def charge(flops: int) -> None:
            nonlocal overhead
            overhead += flops

        def act(stage: Pruner, layer: int, units: Tensor, token: Tensor, so_far: Features) -> Selection | None:
            def record(signal: Signal, places: Tensor) -> Tensor:
                value, recorded = so_far.signals[signal]
                if recorded is not token:  # units have left, or changed places, since
                    order = recorded.argsort()
                    places = order[torch.searchsorted(recorded[order], token[places])]
                return value.index_select(token_axis(signal), places)

            charge(stage.flops(self.model.info, "encoder", len(token), units.shape[1]))
            view = View(
                sample=sample, layer=layer, picture=number, column=token + start,
                index=torch.arange(len(token), device=units.device),
                hidden=units, positions=units.new_zeros(0, len(token)),
                size=units.new_ones(len(token)) if so_far.size is None else so_far.size,
                state=states[id(stage)], record=record,
                qk=_absent, final_norm=self.model.norm, project=self.model.project,
                charge=charge,
            )  # fmt: skip
            with self.part("overhead"):
                return stage.at_encoder(view)

        def layers(inside: bool) -> dict[int, Select]:
            stages = [stage for stage in self.stages if stage.inside == inside]
            depth = self.model.info.tower_depth
            return {layer: partial(act, stage) for stage in stages for layer in stage.tower_layers(depth)}

        hooks = TowerHooks(layers(True), layers(False), self._bias)
        out = self.model.encode(prompt.pictures[number], self.signals, hooks, self.part)
        return replace(out, overhead=overhead + sum(out.costs.values()))

    def _bias(self, layer: int, size: Tensor) -> Tensor | None:
        """What all methods together add to the attention logits of a tower layer."""
        terms = [term for stage in self.biased if (term := stage.tower_bias(layer, size)) is not None]
        return torch.stack(terms).sum(0) if terms else None


def _absent(_: int) -> tuple[Tensor, Tensor]:
    raise ValueError("queries and keys of the language model do not exist inside the tower")
