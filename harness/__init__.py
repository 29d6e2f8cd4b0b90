"""vtpbench: the reference benchmark harness for training-free visual token pruning in multimodal LLMs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.notebook import Loaded

__version__ = "0.1.0"


def load(name: str, **options: Any) -> Loaded:
    """A model for a notebook: `vtp = harness.load("tiny_qwen3_vl"); vtp.generate(image, question, pruner=FastV())`.

    Args:
        name: a model of `vtpbench list`, a local folder or a hub id (the latter two need `family=`).
        options: replace entries of the model's configuration (path, revision, dtype, device, min_pixels, ...).
    """
    from harness.notebook import load_named

    return load_named(name, **options)
