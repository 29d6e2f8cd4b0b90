"""Model architectures and where their weights come from."""

import harness.compat  # noqa: F401  (before anything imports transformers)
from harness.models.base import BadSample, Model, ModelUnavailable
from harness.models.loading import load_model, model_info, processor_hash, weights_id

__all__ = ["BadSample", "Model", "ModelUnavailable", "load_model", "model_info", "processor_hash", "weights_id"]
