"""Sizes of full-size models whose costs papers print, by model_id; the configs of the checkpoints give the same."""

from __future__ import annotations

from dataclasses import replace

from harness.accounting.dims import Dims

_LLAVA = Dims(
    depth=32, hidden=4096, heads=32, kv_heads=32, head_dim=128, mlp=11008, vocab=32064, tower_depth=23, tower_cls=1,
    tower_hidden=1024, tower_mlp=4096, patch_inputs=3 * 14 * 14, unit=1, merger_hidden=4096, deepstack=(),
    value_bytes=2,
)  # fmt: skip
DIMS = {
    "llava_1_5_7b": _LLAVA,
    "llava_1_5_13b": replace(
        _LLAVA, depth=40, hidden=5120, heads=40, kv_heads=40, mlp=13824, merger_hidden=5120
    ),
    "qwen3_vl_4b": Dims(
        depth=36, hidden=2560, heads=32, kv_heads=8, head_dim=128, mlp=9728, vocab=151936, tower_depth=24, tower_cls=0,
        tower_hidden=1024, tower_mlp=4096, patch_inputs=3 * 2 * 16 * 16, unit=4, merger_hidden=4096,
        deepstack=(5, 11, 17), value_bytes=2,
    ),
    "internvl3_5_8b": Dims(
        depth=36, hidden=4096, heads=32, kv_heads=8, head_dim=128, mlp=12288, vocab=151936, tower_depth=24, tower_cls=1,
        tower_hidden=1024, tower_mlp=4096, patch_inputs=3 * 14 * 14, unit=4, merger_hidden=4096, deepstack=(),
        value_bytes=2,
    ),
}  # fmt: skip
TIED = ("qwen3_vl_4b",)
"""Those whose head is their embedding of tokens."""
