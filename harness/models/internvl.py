"""InternVL3 and 3.5: InternViT on tiles of a picture, pixel shuffle of 2 x 2 patches, Qwen language model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from harness.accounting.dims import Dims
from harness.models.base import ModelUnavailable, PictureInput
from harness.models.decoder import conversation
from harness.models.sizes import crop_dims, crop_info
from harness.models.tiles import Tiled
from pruners.layout import Crop
from pruners.views import ModelInfo

if TYPE_CHECKING:
    from harness.engine.trace import Request

R1 = (
    "You are an AI assistant that rigorously follows this response protocol:\n\n"
    "1. First, conduct a detailed analysis of the question. Consider different angles, potential solutions, and reason "
    "through the problem step-by-step. Enclose this entire thinking process within <think> and </think> tags.\n\n"
    "2. After the thinking section, provide a clear, concise, and direct answer to the user's question. Separate the "
    "answer from the think section with a newline.\n\n"
    "Ensure that the thinking process is thorough but remains focused on the query. The final answer should be "
    "standalone and not reference the thinking section."
)
"""System text under which the checkpoints think before they answer."""


class InternVL(Tiled):
    """Adapter over the stock `InternVLForConditionalGeneration`."""

    def __init__(
        self, net: Any, tokenizer: Any, image_processor: Any, name: str,
        max_tiles: int | None = None, system_prompt: str | None = None,
    ) -> None:  # fmt: skip
        """
        Args:
            max_tiles: most tiles per picture, thumbnail apart; None: as the processor says (12).
            system_prompt: "r1" gives requests without a system text of their own `R1`.
        """
        super().__init__(net, tokenizer, image_processor)
        if system_prompt not in (None, "r1") or (max_tiles is not None and max_tiles < 1):
            raise ModelUnavailable(
                f'system_prompt= is "r1" and max_tiles= at least 1, got {system_prompt}, {max_tiles}'
            )
        self.info, self.dims = info(self.config, name), dims(self.config, self.dtype.itemsize)
        self.system = (R1,) if system_prompt else ()
        self.merge = merge(self.config)
        vision = self.config.vision_config
        self.side = vision.image_size[0] // vision.patch_size[0] // self.merge
        if max_tiles is not None:
            image_processor.max_patches = max_tiles

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return list(self.tower.encoder.layer)

    def render(self, request: Request) -> tuple[str, list[Any]]:
        messages, images = conversation(request, request.system or self.system)
        text: str = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        start, end = (
            getattr(self.tokenizer, f"{x}_image_token", y) for x, y in (("start", "<img>"), ("end", "</img>"))
        )
        context = self.tokenizer.convert_ids_to_tokens(self.config.image_token_id)
        return text.replace(context, f"{start}{context}{end}"), images

    def look(self, image: Any) -> tuple[PictureInput, list[Crop]]:
        processor = self.image_processor
        pixels = processor(images=[image], crop_to_patches=True, return_tensors="pt")["pixel_values"]
        columns, rows, size = 1, 1, dict(processor.size)
        if processor.max_patches > 1:
            columns, rows = sys.modules[type(processor).__module__].get_optimal_tiled_canvas(
                (image.height, image.width), (size["height"], size["width"]),
                processor.min_patches, processor.max_patches,
            )  # fmt: skip
        return PictureInput.of(pixels, (rows, columns), image=image), self.tiles(rows, columns)

    def enter(self, pixels: Tensor) -> Tensor:
        return self.grouped(self.tower.embeddings(pixels))

    def attend(self, block: Any, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        out: Tensor = block.lambda_1 * block.attention(block.layernorm_before(hidden), attention_mask=mask)[0]
        return hidden + out

    def feed(self, block: Any, hidden: Tensor) -> Tensor:
        out: Tensor = block.lambda_2 * block.mlp(block.layernorm_after(hidden))
        return hidden + out

    def inside(self, block: Any) -> tuple[Any, Any]:
        return block.layernorm_before, block.attention

    def project(self, units: Tensor) -> Tensor:
        if self.info.feature_layer == -1:
            units = self.tower.layernorm(units.unflatten(1, (self.merge**2, -1))).flatten(1)
        tokens: Tensor = self.projector(units)
        return tokens


def merge(config: Any) -> int:
    """Patches per side of a visual token."""
    return int(1 / config.downsample_ratio)


def info(config: Any, name: str) -> ModelInfo:
    """What methods may know, from the config alone."""
    return crop_info(config, name, merge(config) ** 2)


def dims(config: Any, value_bytes: int) -> Dims:
    """Sizes for the accountant, from the config alone."""
    height, width = config.vision_config.patch_size
    return crop_dims(config, value_bytes, height * width, merge(config) ** 2)
