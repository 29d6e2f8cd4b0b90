"""Vision features: computed once per picture, shared by all methods that do not act inside the tower."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from harness.engine.features import FeatureCache
from harness.engine.parts import Part
from harness.engine.samples import make_sample
from harness.engine.signals import token_axis
from harness.engine.trace import Request
from harness.models.base import BadSample, Features, Model, PictureInput, Prompt, Select, TowerHooks
from pruners.base import Pruner
from pruners.selection import Selection
from pruners.signals import Signal, TowerSignal
from pruners.views import State, View

PIXELS = 1 << 25
"""Pixel values that go through the tower together."""


class Vision:
    """Runs the tower for one method, through the cache unless the method acts inside the tower.

    Args:
        pixels: values that go through it together; 0: pictures go one by one.
    """

    def __init__(self, model: Model, pruner: Pruner, cache: FeatureCache, part: Part, pixels: int = PIXELS) -> None:
        self.model, self.cache, self.part, self.pixels = model, cache, part, pixels
        self.stages = [s for s in pruner.stages() if "encoder" in s.moments()]
        self.biased = [s for s in pruner.stages() if type(s).tower_bias is not Pruner.tower_bias]
        self.signals = tuple(
            dict.fromkeys(
                s for stage in pruner.stages() for s in stage.signals(model.info) if isinstance(s, TowerSignal)
            )
        )

    @property
    def acts(self) -> bool:
        """Whether the method acts inside the tower, which then runs for it every time."""
        return bool(self.stages or self.biased)

    @torch.inference_mode()
    def features(self, prompts: Sequence[tuple[Request, Prompt]]) -> list[list[Features]]:
        """Features of every picture of every prompt."""
        with self.part("vision"):
            if self.acts:
                return [[self._acting(r, prompt, i) for i in range(len(prompt.pictures))] for r, prompt in prompts]
            names = [
                [p.key or f"{i} {j}" for j, p in enumerate(prompt.pictures)] for i, (_, prompt) in enumerate(prompts)
            ]
            every = [picture for _, prompt in prompts for picture in prompt.pictures]
            pictures = dict(zip(chain(*names), every, strict=True))
            found = {name: self.cache.get(p.key, self.signals, self.model.device) for name, p in pictures.items()}
            lacking = {name for name, features in found.items() if features is None}
            for (_, prompt), own in zip(prompts, names, strict=True):
                if prompt.again is not None and lacking & set(own):
                    pictures |= whole(prompt.again(), own)
            for batch in batches({name: pictures[name] for name in found if name in lacking}, self.pixels):
                found |= self._made(batch)
            return [[self._own(found[name]) for name in own] for own in names]

    def _made(self, batch: Mapping[str, PictureInput]) -> dict[str, Features]:
        """Features of pictures of one shape, which go into the cache."""
        wanted: dict[Signal, None] = dict.fromkeys(self.signals)
        for picture in batch.values():  # what others asked for is made again, so that methods may take turns
            wanted |= dict.fromkeys(self.cache.signals(picture.key))
        made = self.model.encode_many([*batch.values()], tuple(wanted), self.part)
        for picture, features in zip(batch.values(), made, strict=True):
            if picture.key:
                self.cache.put(picture.key, features)
        return dict(zip(batch, made, strict=True))

    def _own(self, found: Features | None) -> Features:
        """Charged with this method's signals alone: another one may have left more."""
        assert found is not None
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


def whole(prompt: Prompt, keys: Sequence[str]) -> dict[str, PictureInput]:
    """Pictures of a prompt that was made anew."""
    if [picture.key for picture in prompt.pictures] != [*keys]:
        raise BadSample("a picture was changed while its sample was run")
    return dict(zip(keys, prompt.pictures, strict=True))


def batches(pictures: Mapping[str, PictureInput], most: int = PIXELS) -> Iterator[dict[str, PictureInput]]:
    """Pictures that can go through the tower together: of one grid, or made of crops of one size."""
    groups: dict[object, list[str]] = {}
    for name, picture in pictures.items():
        crops = picture.pixels.ndim == 4
        groups.setdefault(picture.pixels.shape[1:] if crops else picture.grid, []).append(name)
    for names in groups.values():
        batch: dict[str, PictureInput] = {}
        for name in names:
            if batch and sum(p.pixels.numel() for p in batch.values()) + pictures[name].pixels.numel() > most:
                yield batch
                batch = {}
            batch[name] = pictures[name]
        yield batch


def _absent(_: int) -> tuple[Tensor, Tensor]:
    raise ValueError("queries and keys of the language model do not exist inside the tower")
