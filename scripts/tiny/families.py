"""The three tiny models: stock classes, their sizes, chat templates and image processors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedTokenizerFast

from scripts.tiny.start import mimetic
from scripts.tiny.world import CELLS, Batches, make_tokenizer

SIDE, PATCH = 128, 8
QWEN = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content -%}
{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif -%}
{%- endfor %}{% endif %}<|im_end|>
{% endfor -%}
{% if add_generation_prompt %}<|im_start|>assistant
{% endif -%}"""
INTERNVL = QWEN.replace("<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>\n")
LLAVA = (
    "{% for m in messages %}{{ '' if m.role == 'system' else m.role.upper() + ': ' }}"
    "{% if m.content is string %}{{ m.content + ' ' }}{% else %}"
    "{% for part in m.content %}{{ '<image>\n' if part.type == 'image' else part.text + ' ' }}{% endfor %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXT: dict[str, Any] = {
    "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 8192, "initializer_range": 0.05,
    "tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 5e6},
}  # fmt: skip
TOWER: dict[str, Any] = {
    "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128, "initializer_range": 0.05,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """A stock class, and what the training must know of it.

    Attributes:
        layer: that of the tower whose output is projected.
        crops: of a picture of 256 x 256 pixels.
    """

    net: str
    image: str
    projector: str
    special: list[str]
    template: str
    names: dict[str, str]
    layer: str | None = None
    crops: int = 1

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Words of the glyph world, special tokens and chat template."""
        return make_tokenizer(self.special, chat_template=self.template, **self.names)

    def processor(self) -> Any:
        """The stock image processor; pixels lie in -1..1."""
        half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        if self.net.startswith("Qwen"):
            unit = (2 * PATCH) ** 2
            return transformers.Qwen2VLImageProcessorPil(
                patch_size=PATCH, merge_size=2, temporal_patch_size=2, **half,
                size={"shortest_edge": 4 * unit, "longest_edge": 1024 * unit},
            )  # fmt: skip
        if self.net.startswith("InternVL"):
            return transformers.GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE}, max_patches=12, **half)
        return transformers.LlavaImageProcessorPil(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, **half
        )

    def batches(self, tokenizer: PreTrainedTokenizerFast) -> Batches:
        """Batches in the family's form."""
        shown = f"<img>{self.image}</img>" if self.net.startswith("InternVL") else self.image  # as its processor does
        return Batches(tokenizer, self.processor(), self.image, shown, self.net.startswith("Qwen"))

    def load(self, folder: Any) -> nn.Module:
        """A trained model of the family."""
        return getattr(transformers, self.net).from_pretrained(folder, dtype=torch.float32)

    def create(self, tokenizer: PreTrainedTokenizerFast) -> nn.Module:
        """A new model; weights are drawn from torch's generator."""
        token = tokenizer.convert_tokens_to_ids
        text = TEXT | {
            "vocab_size": (len(tokenizer) + 63) // 64 * 64, "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
        }  # fmt: skip
        if self.net.startswith("Qwen"):
            text["rope_parameters"] = TEXT["rope_parameters"] | {"mrope_section": [6, 5, 5], "mrope_interleaved": True}
            config: Any = transformers.Qwen3VLConfig(
                image_token_id=token(self.image), video_token_id=token("<|video_pad|>"),
                vision_start_token_id=token("<|vision_start|>"), vision_end_token_id=token("<|vision_end|>"),
                tie_word_embeddings=True, text_config=text,
                vision_config=dict(
                    depth=2, hidden_size=64, num_heads=4, intermediate_size=128, patch_size=PATCH, spatial_merge_size=2,
                    temporal_patch_size=2, out_hidden_size=TEXT["hidden_size"], num_position_embeddings=4 * CELLS,
                    deepstack_visual_indexes=[0], initializer_range=0.05,
                ),
            )  # fmt: skip
        elif self.net.startswith("InternVL"):
            config = transformers.InternVLConfig(
                image_token_id=token(self.image), image_seq_length=CELLS, tie_word_embeddings=True,
                text_config={"model_type": "qwen3", **text},
                vision_config={
                    **TOWER, "num_hidden_layers": 2, "patch_size": [PATCH] * 2, "image_size": [SIDE] * 2,
                    "attention_bias": True, "layer_scale_init_value": 1.0, "use_mean_pooling": False,
                },
            )  # fmt: skip
        else:
            del text["head_dim"]
            config = transformers.LlavaConfig(
                image_token_index=token(self.image), image_seq_length=CELLS, tie_word_embeddings=True,
                vision_feature_layer=-2,
                text_config={"model_type": "llama", **text},
                vision_config={
                    "model_type": "clip_vision_model", **TOWER, "num_hidden_layers": 3, "patch_size": 2 * PATCH,
                    "image_size": SIDE, "projection_dim": 64,
                },
            )  # fmt: skip
        net = getattr(transformers, self.net)(config)
        mimetic(net)
        return net


FAMILIES = {
    "qwen3_vl": Family(
        "Qwen3VLForConditionalGeneration", "<|image_pad|>", "visual.merger",
        [*CHATML, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"], QWEN,
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    ),
    "internvl": Family(
        "InternVLForConditionalGeneration", "<IMG_CONTEXT>", "multi_modal_projector",
        [*CHATML, "<img>", "</img>", "<IMG_CONTEXT>", "<video>"], INTERNVL,
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}, "vision_tower.encoder.layer.1", crops=5,
    ),
    "llava": Family(
        "LlavaForConditionalGeneration", "<image>", "multi_modal_projector", ["<pad>", "<s>", "</s>", "<image>"], LLAVA,
        {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}, "vision_tower.encoder.layers.1",
    ),
}  # fmt: skip
