"""Models whose tower has a class token and sees every crop of a picture by itself (CLIP, InternViT)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from harness.models.base import BadSample, EncoderHook, Features, PictureInput, Prompt
from harness.models.decoder import Decoder, check_placeholders
from harness.models.tower import class_signal, crop_axis, hidden_signal
from pruners.layout import Crop, VisualLayout
from pruners.signals import Signal, TowerHidden, TowerSignal

if TYPE_CHECKING:
    from harness.engine.parts import Part
    from harness.engine.trace import Request


class CropModel(Decoder):
    """Adapter over towers of stock layers on [C, 1 + P, Dt]: class token first, patches in the order of visual tokens.

    Only `dims.tower_depth` of the layers run. Of the first one that does not, attention and keys can be recorded: they
    depend on what enters it alone.
    """

    def __init__(self, net: Any, tokenizer: Any, image_processor: Any) -> None:
        super().__init__(net, tokenizer, image_processor)
        self.tower, self.projector = net.model.vision_tower, net.model.multi_modal_projector

    @property
    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """All layers of the tower."""

    @abstractmethod
    def render(self, request: Request) -> tuple[str, list[Any]]:
        """Text of the prompt, with one placeholder for each of the pictures that follow. Raises BadSample."""

    @abstractmethod
    def look(self, image: Any) -> tuple[PictureInput, list[Crop]]:
        """Pixels of a picture, and what its crops show."""

    @abstractmethod
    def enter(self, pixels: Tensor) -> Tensor:
        """What enters the first tower layer [C, 1 + P, Dt]."""

    @abstractmethod
    def run(self, block: Any, hidden: Tensor) -> Tensor:
        """One tower layer."""

    @abstractmethod
    def inside(self, block: Any) -> tuple[Any, Any]:
        """The norm before attention, and the attention, of a tower layer."""

    def prepare(self, request: Request) -> Prompt:
        text, images = self.render(request)
        bos = self.tokenizer.bos_token
        ids = self.tokenizer(text, add_special_tokens=not (bos and text.startswith(bos)))["input_ids"]
        try:
            return self.lay_out(ids, [self.look(image) for image in images])
        except ValueError as error:
            raise BadSample(f"the image processor refuses the picture: {error}") from error

    def lay_out(self, ids: list[int], pictures: Sequence[tuple[PictureInput, list[Crop]]]) -> Prompt:
        """Expand each picture's placeholder and count positions."""
        token = self.config.image_token_id
        check_placeholders(ids, token, len(pictures))
        left = (sum(crop.rows * crop.columns for crop in crops) for _, crops in pictures)
        row = torch.tensor([t for i in ids for t in ([i] if i != token else [i] * next(left))])
        return Prompt(
            row, torch.arange(len(row))[None], len(row), (row == token).nonzero().flatten(),
            VisualLayout.of_crops([crops for _, crops in pictures]), tuple(picture for picture, _ in pictures),
        )  # fmt: skip

    def encode(
        self,
        picture: PictureInput,
        signals: Sequence[Signal] = (),
        hook: EncoderHook | None = None,
        hook_layers: Sequence[int] = (),
        part: Part = nullcontext,
    ) -> Features:
        where = {s: self._reach(s) for s in signals if isinstance(s, TowerSignal)}
        if late := [i for i in hook_layers if i >= self.dims.tower_depth]:
            raise ValueError(f"tower layer {late[0]} does not run, so nothing can leave after it")
        hidden = self.enter(picture.pixels.to(self.device, self.dtype))
        if hook is None:
            return self._layers(hidden, 0, where, None, (), part)
        n = (hidden.shape[1] - 1) // self.info.unit
        crops = hidden.split(1)  # tokens leave them one by one, so their lengths differ from now on
        return joined([self._layers(crop, i * n, where, hook, hook_layers, part) for i, crop in enumerate(crops)])

    def _reach(self, signal: TowerSignal) -> int:
        """The tower layer of a signal, from 0; raises ValueError if what it needs is never computed."""
        depth, runs = self.info.tower_depth, self.dims.tower_depth
        layer = signal.layer + depth * (signal.layer < 0)
        if not 0 <= layer < min(depth, runs + (not isinstance(signal, TowerHidden))):
            raise ValueError(f"{signal} cannot be recorded: {runs} of {depth} tower layers run")
        return layer

    def _layers(
        self, hidden: Tensor, start: int, signals: dict[TowerSignal, int], hook: EncoderHook | None,
        hook_layers: Sequence[int], part: Part,
    ) -> Features:  # fmt: skip
        """All of the tower on crops [C, 1 + P, Dt] whose visual tokens count from `start`."""
        crops, unit = len(hidden), self.info.unit
        token = torch.arange(start, start + crops * (hidden.shape[1] - 1) // unit, device=self.device)
        out = Features(hidden, hidden.new_zeros(0), tower_tokens=[[] for _ in range(crops)])
        for i, block in enumerate(self.blocks[: self.dims.tower_depth + 1]):
            here = [signal for signal, layer in signals.items() if layer == i]
            for signal in here:
                if not isinstance(signal, TowerHidden):
                    with part("overhead"):
                        value, out.costs[signal] = class_signal(signal, *self.inside(block), hidden, unit)
                    out.signals[signal] = (value, token)
            if i == self.dims.tower_depth:
                break
            for entered in out.tower_tokens:
                entered.append(hidden.shape[1])
            hidden = self.run(block, hidden)
            for signal in here:
                if isinstance(signal, TowerHidden):
                    out.signals[signal] = (hidden_signal(signal, hidden, 1, unit), token)
            if hook is not None and i in hook_layers:
                units = hidden[0, 1:].reshape(len(token), -1)
                selection = hook(i, units, token, out)
                if selection is not None:
                    rows = selection.rows(units).reshape(1, len(selection) * unit, -1)
                    hidden = torch.cat([hidden[:, :1], rows], dim=1)
                    token = token[selection.source]
        for entered in out.tower_tokens:
            entered.append(hidden.shape[1])
        out.tokens = self.project(hidden[:, 1:].reshape(len(token), -1))
        out.deepstack = out.tokens.new_zeros(0, *out.tokens.shape)
        out.token = token if hook is not None else None
        return out


def joined(crops: list[Features]) -> Features:
    """Features of a picture from those of its crops."""
    tokens = torch.cat([crop.tokens for crop in crops])
    out = Features(tokens, tokens.new_zeros(0, *tokens.shape))
    out.token = torch.cat([crop.token for crop in crops if crop.token is not None])
    out.tower_tokens = [counts for crop in crops for counts in crop.tower_tokens]
    for signal in crops[0].signals:
        values, places = zip(*(crop.signals[signal] for crop in crops), strict=True)
        out.signals[signal] = (torch.cat(values, dim=crop_axis(signal)), torch.cat(places))
    out.costs = {signal: sum(crop.costs[signal] for crop in crops) for signal in crops[0].costs}
    return out
