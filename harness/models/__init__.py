"""Model architectures and where their weights come from."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.models.base import BadSample, Model, ModelUnavailable
    from harness.models.loading import hide_progress, load_model, model_info, processor_hash, weights_id

__all__ = [
    "BadSample", "Model", "ModelUnavailable", "hide_progress", "load_model", "model_info", "processor_hash",
    "weights_id",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # Loading imports transformers, which takes seconds; what is known of architectures is needed without it.
    if name in __all__:
        module = "base" if name in ("BadSample", "Model", "ModelUnavailable") else "loading"
        return getattr(importlib.import_module(f"harness.models.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
