"""Qwen2-VL: Qwen2.5-VL with a tower that sees all of the picture in every layer, whose MLPs are not gated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.models.qwen2_5_vl import Qwen25VL, info
from harness.models.qwen3_vl import Grid, dims

__all__ = ["Qwen2VL", "dims", "info"]


class Qwen2VL(Qwen25VL):
    """Adapter over the stock `Qwen2VLForConditionalGeneration`; options as for `Qwen3VL`."""

    def __init__(self, net: Any, tokenizer: Any, image_processor: Any, name: str, **limits: int | None) -> None:
        super().__init__(net, tokenizer, image_processor, name, **limits)
        self.dims = dims(self.config, self.dtype.itemsize)

    def _grid(self, height: int, width: int) -> Grid:
        return Grid(self._tower_rope(height, width), [], None)

    @property
    def global_layers(self) -> Sequence[int]:
        return ()
