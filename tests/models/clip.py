"""A tiny CLIP, and a tiny LLaVA whose tower is from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPConfig, CLIPModel

from harness.models import load_model
from harness.models.clip_text import ClipSide
from tests.models.folders import tokenizer, write
from tests.tiny import shake


def write_clip(folder: Path) -> CLIPModel:
    """A CLIP with the tower of the LLaVA in `tests.models.folders`; byte tokens between start and end."""
    words = tokenizer("clip")
    words.save_pretrained(folder)
    vision = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    text = {"hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
    net = CLIPModel(
        CLIPConfig(
            vision_config={**vision, "patch_size": 4, "image_size": 24},
            text_config={**text, "vocab_size": len(words), "max_position_embeddings": 77, "pad_token_id": 0, **ends},
            projection_dim=12,
        )
    ).eval()
    shake(net, 0.2)
    net.save_pretrained(folder)
    return net


def llava_with_clip(folder: Path, device: str = "cpu") -> tuple[Any, CLIPModel]:
    """The adapter on random weights with noise, but for the tower, and the CLIP that both towers are from."""
    net = write_clip(folder / "clip")
    model: Any = load_model(
        str(write("llava", folder / "llava")), family="llava", weights="random", device=device,
        clip_text=str(folder / "clip"),
    )  # fmt: skip
    if device != "meta":
        shake(model.net, 0.15)
        model.tower.load_state_dict(net.vision_model.state_dict())
    return model, net


class Bytes:
    """Stands in for a tokenizer: start, `least` words or as many as the text has bytes, end."""

    def __init__(self, least: int) -> None:
        self.least = least

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [256, *(list(text.encode()) or [7] * self.least), 257]}


def given_clip(model: Any, words: int = 18, noise: float = 0.0, **text: int) -> Any:
    """A random LLaVA (`tests.tiny.Prompted`) with the text side of a random CLIP, of any size and on its device."""
    sizes = {"hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, **text}
    width = model.config.vision_config.hidden_size
    with torch.device(model.device):
        net = CLIPModel(
            CLIPConfig(
                vision_config={"hidden_size": width, "num_hidden_layers": 1, "num_attention_heads": 1},
                text_config={
                    **sizes, "vocab_size": 258, "max_position_embeddings": 77, "bos_token_id": 256, "eos_token_id": 257,
                },
                projection_dim=sizes.pop("projection_dim", 12),
            )
        )  # fmt: skip
    if noise:
        shake(net, noise)
    model.clip, model.info = ClipSide(net, Bytes(words)), replace(model.info, has_text_tower=True)
    return model
