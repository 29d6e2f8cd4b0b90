"""A slow LLaVA-1.5 (CLIP tower, two-layer projector, Llama), written from its formulas: see `decoder`.

prompt = Reference(model).prompt(input_ids, pixel_values, tiles_per_picture=[1, 1])
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .decoder import CropDecoder, activation, attend, split_heads


class Reference(CropDecoder):
    def __init__(self, model: Any, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(model, dtype)
        assert self.config.text_config.model_type == "llama"
        assert self.config.vision_config.model_type == "clip_vision_model"
        assert isinstance(self.config.vision_feature_layer, int)
        assert self.config.vision_feature_select_strategy == "default"
        # Releases of transformers differ in whether a `vision_model` stands between.
        (found,) = [name for name in self.weights if name.endswith(".embeddings.class_embedding")]
        self.tower = found.removesuffix(".embeddings.class_embedding")

    def crop(self, pixels: Tensor) -> Tensor:
        """The states after all layers up to the chosen one, of the patches only, through the projector."""
        vision = self.config.vision_config
        x = self.patches(self.tower + ".embeddings.patch_embedding", pixels)
        x = torch.cat([self.weights[self.tower + ".embeddings.class_embedding"][None], x])
        x = x + self.weights[self.tower + ".embeddings.position_embedding.weight"]
        states = [self.layer_norm(self.tower + ".pre_layrnorm", x, vision.layer_norm_eps)]
        for i in range(vision.num_hidden_layers):
            x, name = states[-1], f"{self.tower}.encoder.layers.{i}"
            y = self.layer_norm(name + ".layer_norm1", x, vision.layer_norm_eps)
            q, k, v = (
                split_heads(self.linear(f"{name}.self_attn.{part}_proj", y), vision.num_attention_heads)
                for part in "qkv"
            )
            out, _ = attend(q, k, v, torch.ones(len(x), len(x), dtype=torch.bool))
            x = x + self.linear(name + ".self_attn.out_proj", out)
            y = self.layer_norm(name + ".layer_norm2", x, vision.layer_norm_eps)
            y = activation(vision.hidden_act, self.linear(name + ".mlp.fc1", y))
            states.append(x + self.linear(name + ".mlp.fc2", y))
        x = states[self.config.vision_feature_layer][1:]
        x = activation(self.config.projector_hidden_act, self.linear("model.multi_modal_projector.linear_1", x))
        return self.linear("model.multi_modal_projector.linear_2", x)
