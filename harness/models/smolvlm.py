"""SmolVLM2: SigLIP's tower on tiles of a picture, with text between them, pixel shuffle, Llama language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from harness.accounting.dims import Dims
from harness.models.base import PictureInput
from harness.models.decoder import conversation
from harness.models.sizes import rope_turns, text_dims
from harness.models.tiles import Tiled
from pruners.layout import Crop
from pruners.views import ModelInfo

if TYPE_CHECKING:
    from harness.engine.trace import Request

IMAGE, AROUND, WHOLE = "<image>", "<fake_token_around_image>", "<global-img>"


class SmolVLM(Tiled):
    """Adapter over the stock `SmolVLMForConditionalGeneration`.

    Tiles fill squares, so every patch has a position embedding of its own. (transformers 5.17 rounds places to the
    model's dtype first: in half precision some patches have their neighbour's there.)
    """

    parts = ("vision_model", "connector")

    def __init__(self, net: Any, tokenizer: Any, image_processor: Any, name: str) -> None:
        super().__init__(net, tokenizer, image_processor)
        self.info, self.dims = info(self.config, name), dims(self.config, self.dtype.itemsize)
        self.merge = self.config.scale_factor
        self.side = self.config.vision_config.image_size // self.config.vision_config.patch_size // self.merge

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return list(self.tower.encoder.layers)

    def render(self, request: Request) -> tuple[str, list[Any]]:
        from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

        messages, images = conversation(request, request.system)
        text: str = self.tokenizer.apply_chat_template(
            messages, chat_template=self.tokenizer.chat_template or DEFAULT_CHAT_TEMPLATE, tokenize=False,
            add_generation_prompt=True,
        )  # fmt: skip
        return text, images

    def look(self, image: Any) -> tuple[PictureInput, list[Crop]]:
        out = self.image_processor(images=[image], return_row_col_info=True, return_tensors="pt")
        rows, columns = (max(1, out[name][0][0]) for name in ("rows", "cols"))  # 0 where nothing is split
        return PictureInput.of(out["pixel_values"][0], (rows, columns), image=image), self.tiles(rows, columns)

    def spelled(self, picture: PictureInput, n: int) -> list[int]:
        from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

        rows, columns = (0, 0) if picture.grid == (1, 1) else picture.grid
        text = get_image_prompt_string(rows, columns, 1, AROUND, IMAGE, WHOLE)
        first, *others = (self.tokenizer(part, add_special_tokens=False)["input_ids"] for part in text.split(IMAGE))
        crop = [self.config.image_token_id] * self.side**2
        return [*first, *(token for behind in others for token in (*crop, *behind))]

    def enter(self, pixels: Tensor) -> Tensor:
        embeddings = self.tower.embeddings
        patches = embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        return self.grouped(patches + embeddings.position_embedding.weight)

    def project(self, units: Tensor) -> Tensor:
        normed = self.tower.post_layernorm(units.unflatten(1, (self.info.unit, -1))).flatten(1)
        tokens: Tensor = self.projector.modality_projection(normed)
        return tokens


def info(config: Any, name: str) -> ModelInfo:
    """What methods may know, from the config alone."""
    vision = config.vision_config
    return ModelInfo(
        name=name, depth=config.text_config.num_hidden_layers, tower_depth=vision.num_hidden_layers,
        unit=config.scale_factor**2, tower_head_dim=vision.hidden_size // vision.num_attention_heads,
        tower_heads=vision.num_attention_heads, rope=rope_turns(config.text_config),
    )  # fmt: skip


def dims(config: Any, value_bytes: int) -> Dims:
    """Sizes for the accountant, from the config alone; the projector is one product."""
    vision = config.vision_config
    return Dims(
        **text_dims(config.text_config), tower_depth=vision.num_hidden_layers, tower_cls=0,
        tower_hidden=vision.hidden_size, tower_mlp=vision.intermediate_size,
        patch_inputs=vision.num_channels * vision.patch_size**2, unit=config.scale_factor**2, merger_hidden=0,
        deepstack=(), value_bytes=value_bytes,
    )  # fmt: skip
