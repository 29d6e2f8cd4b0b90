"""Random Qwen3-VLs of any shape and on any device, prompted with tokens and pixels, so that no file is needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from harness.engine import Request
from harness.models.base import PictureInput, Prompt
from harness.models.qwen3_vl import Qwen3VL

IMAGE = 5
Grid = tuple[int, int]
"""Patches per column and row of a picture, before merging."""


def config(text: Mapping[str, Any], vision: Mapping[str, Any], tied: bool) -> Qwen3VLConfig:
    """A configuration from its sizes; frequencies are shared by the three axes as in the published models."""
    quarter = text["head_dim"] // 8
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_interleaved": True}
    rope["mrope_section"] = [text["head_dim"] // 2 - 2 * quarter, quarter, quarter]
    return Qwen3VLConfig(
        image_token_id=IMAGE, video_token_id=6, vision_start_token_id=7, vision_end_token_id=8,
        tie_word_embeddings=tied,
        text_config={
            **text, "tie_word_embeddings": tied, "rope_parameters": rope, "max_position_embeddings": 8192,
            "pad_token_id": None, "eos_token_id": None, "bos_token_id": None,
        },
        vision_config={
            **vision, "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": text["hidden_size"],
        },
    )  # fmt: skip


def text_sizes(
    hidden: int, layers: int, heads: int, kv_heads: int, head_dim: int, mlp: int, vocab: int
) -> dict[str, int]:
    return {
        "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads, "vocab_size": vocab,
        "num_key_value_heads": kv_heads, "head_dim": head_dim, "intermediate_size": mlp,
    }  # fmt: skip


def vision_sizes(
    depth: int, hidden: int, heads: int, mlp: int, patch: int, places: int, deepstack: list[int]
) -> dict[str, Any]:
    return {
        "depth": depth, "hidden_size": hidden, "num_heads": heads, "intermediate_size": mlp, "patch_size": patch,
        "num_position_embeddings": places, "deepstack_visual_indexes": deepstack,
    }  # fmt: skip


CONFIGS = {
    "shipped": config(text_sizes(96, 4, 4, 2, 32, 256, 192), vision_sizes(2, 64, 4, 128, 8, 256, [0]), tied=True),
    "untied": config(  # three queries share a key, DeepStack twice
        text_sizes(80, 5, 6, 2, 16, 112, 130), vision_sizes(4, 48, 3, 72, 4, 25, [0, 2]), tied=False
    ),
}
QWEN3_VL_4B = config(
    text_sizes(2560, 36, 32, 8, 128, 9728, 151936), vision_sizes(24, 1024, 16, 4096, 16, 2304, [5, 11, 17]), tied=True
)


class Words:
    """Stands in for a tokenizer: replies are their numbers."""

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return " ".join(map(str, ids))

    def get_vocab(self) -> dict[str, int]:
        return {}


class Prompted(Qwen3VL):
    """The adapter over random weights; every request is text, the pictures with text between them, and text."""

    def __init__(self, config: Qwen3VLConfig, device: str, grids: list[Grid], text: int = 9) -> None:
        torch.manual_seed(0)
        with torch.device(device):
            net = Qwen3VLForConditionalGeneration(config)
        net.model.language_model.set_attn_implementation("vtpbench")
        net.model.visual.set_attn_implementation("sdpa")
        super().__init__(net, Words(), None, "random")
        self.ids = [10] * 3
        for _ in grids:
            self.ids += [IMAGE, 11]
        self.ids += [12] * (text - len(self.ids) + len(grids))
        pixels = [torch.randn(rows * columns, self.dims.patch_inputs, device=device) for rows, columns in grids]
        self.pictures = tuple(map(PictureInput.of, pixels, grids))

    def prepare(self, request: Request) -> Prompt:
        return self.layout_prompt(self.ids, self.pictures)
