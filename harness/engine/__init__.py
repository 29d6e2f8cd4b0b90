"""Prefill and decode of stock models under pruning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.engine.trace import Decoding, Request, Trace

if TYPE_CHECKING:
    from harness.engine.engine import Engine

ENGINE_VERSION = "1"
"""Raised whenever generated tokens can change; part of the code fingerprint of every result."""


def __getattr__(name: str) -> Any:
    # The engine imports transformers, which takes seconds; requests and traces are needed without it.
    if name == "Engine":
        from harness.engine.engine import Engine

        return Engine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["ENGINE_VERSION", "Decoding", "Engine", "Request", "Trace"]
