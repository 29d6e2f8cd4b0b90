"""Prefill and decode of stock models under pruning."""

import harness.compat  # noqa: F401  (before anything imports transformers)
from harness.engine.engine import ENGINE_VERSION, Engine
from harness.engine.trace import Decoding, Request, Trace

__all__ = ["ENGINE_VERSION", "Decoding", "Engine", "Request", "Trace"]
