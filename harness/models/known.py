"""One model of every architecture, as methods know it, for when its configuration is not at hand."""

from __future__ import annotations

from pruners.views import ModelInfo

QWEN = ModelInfo(
    name="Qwen3-VL-4B", depth=36, tower_depth=24, unit=4, axes=3, native=True, tower_head_dim=64
)  # fmt: skip
INTERNVL = ModelInfo(name="InternVL3.5-8B", depth=36, tower_depth=24, unit=4, has_cls=True)
LLAVA = ModelInfo(
    name="LLaVA-1.5-7B", depth=32, tower_depth=24, has_cls=True, has_text_tower=True, feature_layer=-2
)  # fmt: skip
KNOWN = (QWEN, INTERNVL, LLAVA)
