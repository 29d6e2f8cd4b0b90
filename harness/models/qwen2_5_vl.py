"""Qwen2.5-VL: tower with window attention and 2 x 2 merging, language model with M-RoPE in contiguous sections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from harness.accounting.dims import Dims
from harness.models import qwen3_vl
from harness.models.qwen3_vl import Grid, Qwen3VL
from harness.models.sizes import rope_parameters, rope_turns
from harness.models.windows import Windows
from pruners.views import ModelInfo


class Qwen25VL(Qwen3VL):
    """Adapter over the stock `Qwen2_5_VLForConditionalGeneration`; options as for `Qwen3VL`.

    The stock tower sorts visual tokens by window until it has merged them; here they stand in raster order throughout.
    """

    def __init__(self, net: Any, tokenizer: Any, image_processor: Any, name: str, **limits: int | None) -> None:
        super().__init__(net, tokenizer, image_processor, name, **limits)
        self.info, self.dims = info(self.config, name), dims(self.config, self.dtype.itemsize)

    def enter(self, pixels: Tensor, grid: Grid) -> Tensor:
        return self.patches(pixels)

    def _grid(self, height: int, width: int) -> Grid:
        vision = self.config.vision_config
        side = vision.window_size // self.merge // vision.patch_size
        windows = Windows.of_grid(height // self.merge, width // self.merge, side, self.device)
        return Grid(self._tower_rope(height, width), [], windows)

    @property
    def global_layers(self) -> Sequence[int]:
        layers: Sequence[int] = self.config.vision_config.fullatt_block_indexes
        return layers

    @cached_property
    def rope_axis(self) -> Tensor:
        return torch.tensor(rope_axes(self.config.text_config), device=self.device)


def rope_axes(text: Any) -> list[int]:
    """The axis that turns each pair of channels: one after the other."""
    return [axis for axis, pairs in enumerate(rope_parameters(text)["mrope_section"]) for _ in range(pairs)]


def info(config: Any, name: str) -> ModelInfo:
    """What methods may know, from the config alone."""
    text = config.text_config
    return replace(qwen3_vl.info(config, name), rope=rope_turns(text, rope_axes(text)))


def dims(config: Any, value_bytes: int) -> Dims:
    """Sizes for the accountant, from the config alone; the tower's MLPs are gated."""
    return replace(qwen3_vl.dims(config, value_bytes), tower_mlp_products=3)
