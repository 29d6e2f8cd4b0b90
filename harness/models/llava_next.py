"""LLaVA-NeXT (LLaVA-1.6): an overview of the picture and tiles of it, newline tokens, Llama or Mistral behind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from harness.models.base import PADDING, Features, ModelUnavailable, PictureInput
from harness.models.llava import Llava, check_aspect, dims, info
from harness.models.padding import unpadded
from pruners.layout import NEWLINE, THUMBNAIL, Crop, VisualLayout

__all__ = ["LlavaNext", "dims", "info"]


class LlavaNext(Llava):
    """Adapter over the stock `LlavaNextForConditionalGeneration`.

    Crop 0 of a picture is its overview, squeezed to a square. Then come the tiles of the padded picture, but in the
    prompt row by row over all of them, without the patches that show padding alone, each row followed by the model's
    newline. Under methods that act inside the tower all newlines stay, and padding leaves behind the tower, with what
    was merged into it.
    """

    def __init__(
        self, net: Any, tokenizer: Any, image_processor: Any, name: str, system: str | None = None,
        clip_text: str | None = None, assembly: str | None = None, pinpoints: int | None = None,
    ) -> None:  # fmt: skip
        """
        Args:
            system, clip_text: as for `Llava`.
            assembly: "stock", or "grid" for padding as any other patch and no newlines, as the official code of
                VisionZip, FasterVLM, VisPruner and CDPruner has it.
            pinpoints: side, in pixels, of the square that every picture is padded to (672 in the official code of
                VisPruner and CDPruner); None: what suits it best of the configuration's `image_grid_pinpoints`.
        """
        super().__init__(net, tokenizer, image_processor, name, system=system, clip_text=clip_text)
        self.unpads = assembly != "grid"
        self.newline: Tensor = net.model.image_newline
        self.tile: int = self.config.vision_config.image_size
        whole = pinpoints is None or (pinpoints > 0 and pinpoints % self.tile == 0)
        if assembly not in (None, "stock", "grid") or not whole:
            raise ModelUnavailable(
                f"assembly= is stock or grid, pinpoints= a multiple of {self.tile}, got {assembly} and {pinpoints}"
            )
        self.pinpoints = self.config.image_grid_pinpoints if pinpoints is None else [[pinpoints, pinpoints]]
        if image_processor is not None:
            image_processor.image_grid_pinpoints = self.pinpoints

    def look(self, image: Any) -> tuple[PictureInput, list[Crop]]:
        check_aspect(image)
        pixels = self.image_processor(images=[image], return_tensors="pt")["pixel_values"][0]
        rows, columns = self.tiles(image.height, image.width)
        crops, place = self.arrange(image.height, image.width)
        return PictureInput.of(pixels, (rows, columns), place, image), crops

    def tiles(self, height: int, width: int) -> tuple[int, int]:
        """Tiles per column and row of a picture of so many pixels."""
        from transformers.image_processing_utils import select_best_resolution

        high, wide = select_best_resolution((height, width), self.pinpoints)
        return high // self.tile, wide // self.tile

    def arrange(self, height: int, width: int) -> tuple[list[Crop], Tensor]:
        """What the crops of a picture show, and where their tokens go (see `PictureInput.place`)."""
        (rows, columns), side = self.tiles(height, width), self.side
        down, across = rows * side, columns * side
        high, wide = unpadded(height, width, down, across) if self.unpads else (down, across)
        top, left = (down - high) // 2, (across - wide) // 2
        number = torch.arange(high * (wide + self.unpads)).view(high, wide + self.unpads) + side**2
        grid = torch.full((down, across), PADDING)
        grid[top : top + high, left : left + wide] = number[:, :wide]
        tiled = grid.view(rows, side, columns, side).transpose(1, 2)
        crops = [Crop(side, side, kind=THUMBNAIL), *self.shown(height, width, rows, columns)]
        if self.unpads:
            crops.append(Crop(high, 1, kind=NEWLINE))
        return crops, torch.cat([torch.arange(side**2), tiled.flatten(), number[:, wide:].flatten()])

    def shown(self, height: int, width: int, rows: int, columns: int) -> list[Crop]:
        """The tiles, row by row, in fractions of the picture: padding lies outside 0..1."""
        scale = min(rows * self.tile / height, columns * self.tile / width)
        high = min(math.ceil(height * scale), rows * self.tile)
        wide = min(math.ceil(width * scale), columns * self.tile)
        top, left = (rows * self.tile - high) // 2, (columns * self.tile - wide) // 2
        down = [(row * self.tile - top) / high for row in range(rows + 1)]
        across = [(column * self.tile - left) / wide for column in range(columns + 1)]
        return [
            Crop(self.side, self.side, (down[r], across[c], down[r + 1], across[c + 1]))
            for r in range(rows) for c in range(columns)
        ]  # fmt: skip

    def in_prompt(self, units: VisualLayout, pictures: Sequence[PictureInput]) -> VisualLayout:
        order, start = [torch.zeros(0, dtype=torch.long)], 0
        for picture in pictures:
            assert picture.place is not None
            order.append(picture.place.argsort()[: visible(picture.place)] + start)
            start += len(picture.place)
        return units[torch.cat(order)]

    def assembled(self, picture: PictureInput, out: Features) -> Features:
        given = picture.place
        assert given is not None
        place, patches = given.to(self.device), len(picture.pixels) * self.side**2
        out.signals = {signal: (value, place[token]) for signal, (value, token) in out.signals.items()}
        patch = torch.arange(patches, device=self.device) if out.token is None else out.token
        newline = torch.arange(patches, len(place), device=self.device)
        goes = place[torch.cat([patch, newline])]
        if len(patch) == patches:
            n = visible(given)
        elif goes.is_meta:  # no values: as if padding had lost the same share
            n = len(goes) - (len(given) - visible(given)) * len(patch) // patches
        else:
            n = visible(goes)
        order = goes.argsort(stable=True)[:n]
        lines = self.newline.expand(len(newline), -1)
        out.tokens = torch.cat([out.tokens, lines.to(out.tokens)])[order]
        out.deepstack = out.tokens.new_zeros(0, *out.tokens.shape)
        if out.token is not None:
            out.token = goes[order]
        if out.size is not None:
            out.size = torch.cat([out.size, out.size.new_ones(len(newline))])[order]
        return out


def visible(place: Tensor) -> int:
    """How many of these places are no padding; reads the number from the device."""
    return int((place < PADDING).sum())
