"""A slow InternVL3.5 (InternViT, pixel shuffle, Qwen3), written from its formulas: see `decoder`.

prompt = Reference(model).prompt(input_ids, pixel_values, tiles_per_picture=[5, 1])
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .decoder import CropDecoder, activation, attend, split_heads

TOWER, PROJECTOR = "model.vision_tower", "model.multi_modal_projector"


class Reference(CropDecoder):
    def __init__(self, model: Any, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(model, dtype)
        assert self.config.vision_feature_layer == -1
        assert self.config.vision_feature_select_strategy == "default"
        assert self.config.downsample_ratio == 0.5

    def norm(self, name: str, x: Tensor) -> Tensor:
        vision = self.config.vision_config
        if vision.norm_type == "rms_norm":
            return self.rms_norm(name, x, vision.layer_norm_eps)
        return self.layer_norm(name, x, vision.layer_norm_eps)

    def crop(self, pixels: Tensor) -> Tensor:
        """The last states, of the patches only; each 2 x 2 of them is one token of the projector."""
        vision = self.config.vision_config
        x = self.patches(TOWER + ".embeddings.patch_embeddings.projection", pixels)
        x = torch.cat([self.weights[TOWER + ".embeddings.cls_token"][0], x])
        if vision.use_absolute_position_embeddings:
            x = x + self.weights[TOWER + ".embeddings.position_embeddings"][0]
        for i in range(vision.num_hidden_layers):
            name = f"{TOWER}.encoder.layer.{i}"
            y = self.norm(name + ".layernorm_before", x)
            q, k, v = (self.linear(f"{name}.attention.{part}_proj", y) for part in "qkv")
            if vision.use_qk_norm:  # over all heads at once
                q, k = (self.rms_norm(f"{name}.attention.{part}_norm", t, 1e-6) for part, t in (("q", q), ("k", k)))
            q, k, v = (split_heads(t, vision.num_attention_heads) for t in (q, k, v))
            out, _ = attend(q, k, v, torch.ones(len(x), len(x), dtype=torch.bool))
            x = x + self.weights[name + ".lambda_1"] * self.linear(name + ".attention.projection_layer", out)
            y = self.linear(name + ".mlp.fc1", self.norm(name + ".layernorm_after", x))
            y = self.linear(name + ".mlp.fc2", activation(vision.hidden_act, y))
            x = x + self.weights[name + ".lambda_2"] * y
        if not vision.use_mean_pooling:
            x = self.layer_norm(TOWER + ".layernorm", x, vision.layer_norm_eps)
        side = int((len(x) - 1) ** 0.5)
        grid = x[1:].view(side, side, -1)
        x = torch.cat([grid[r::2, c::2] for r in (0, 1) for c in (0, 1)], dim=-1).flatten(0, 1)
        x = self.linear(PROJECTOR + ".linear_1", self.layer_norm(PROJECTOR + ".layer_norm", x, 1e-5))
        return self.linear(PROJECTOR + ".linear_2", activation(self.config.projector_hidden_act, x))
