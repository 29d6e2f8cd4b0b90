"""Sizes of models from their configs alone, as far as several families share them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.accounting.dims import Dims
from harness.models.base import ModelUnavailable
from harness.models.known import turns
from pruners.views import ModelInfo


def text_dims(text: Any) -> dict[str, int]:
    """Sizes of a language model for the accountant."""
    return {
        "depth": text.num_hidden_layers, "hidden": text.hidden_size, "heads": text.num_attention_heads,
        "kv_heads": text.num_key_value_heads, "mlp": text.intermediate_size, "vocab": text.vocab_size,
        "head_dim": getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
    }  # fmt: skip


def rope_parameters(text: Any) -> dict[str, Any]:
    """RoPE settings of a language model, whatever their name in this transformers version."""
    given = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    return {"rope_theta": getattr(text, "rope_theta", None), **given}


def rope_turns(text: Any, axes: Sequence[int] = ()) -> tuple[tuple[float, ...], ...]:
    """`ModelInfo.rope`, given the axis of every pair of channels (none: there is but one axis)."""
    rope, d = rope_parameters(text), text_dims(text)["head_dim"]
    # InternVL3's "dynamic" is the default up to `max_position_embeddings`, 32,768 tokens
    if rope.get("rope_type", "default") not in ("default", "dynamic") or rope["rope_theta"] is None:
        return ()
    return turns(rope["rope_theta"], d, axes)


def tower_widths(vision: Any) -> tuple[int, int]:
    """Widths of a Qwen tower and of its MLPs; what Qwen2-VL calls hidden_size is the language model's."""
    if hasattr(vision, "embed_dim"):
        return vision.embed_dim, int(vision.embed_dim * vision.mlp_ratio)
    return vision.hidden_size, vision.intermediate_size


def feature_layer(config: Any) -> int:
    """The tower layer whose output is projected, from the end; -1 is the last one."""
    layer, depth = config.vision_feature_layer, config.vision_config.num_hidden_layers
    if not isinstance(layer, int) or config.vision_feature_select_strategy != "default":
        raise ModelUnavailable(
            "only checkpoints that project the patches of one tower layer are supported, not vision_feature_layer="
            f"{layer} with vision_feature_select_strategy={config.vision_feature_select_strategy}"
        )
    return layer if layer < 0 else layer - depth - 1  # hidden_states[0] is what enters the first layer


def crop_info(config: Any, name: str, unit: int) -> ModelInfo:
    """What methods may know of a model whose tower has a class token."""
    return ModelInfo(
        name=name, depth=config.text_config.num_hidden_layers, tower_depth=config.vision_config.num_hidden_layers,
        unit=unit, has_cls=True, feature_layer=feature_layer(config),
        tower_head_dim=config.vision_config.hidden_size // config.vision_config.num_attention_heads,
        tower_heads=config.vision_config.num_attention_heads, rope=rope_turns(config.text_config),
    )  # fmt: skip


def crop_dims(config: Any, value_bytes: int, patch: int, unit: int) -> Dims:
    """The same for the accountant; `patch` is the number of pixels of a patch."""
    vision = config.vision_config
    return Dims(
        **text_dims(config.text_config), tower_depth=vision.num_hidden_layers + 1 + feature_layer(config),
        tower_cls=1, tower_hidden=vision.hidden_size, tower_mlp=vision.intermediate_size,
        patch_inputs=vision.num_channels * patch, unit=unit, merger_hidden=config.text_config.hidden_size,
        deepstack=(), value_bytes=value_bytes,
    )  # fmt: skip
