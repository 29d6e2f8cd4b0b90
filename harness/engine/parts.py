"""Which part of the work is running: for profilers and for checks of the accountant."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

Part = Callable[[str], AbstractContextManager[object]]
"""Called with "vision", "prefill", "decode" or "overhead"; parts nest, and work belongs to the innermost."""


def ignore(_: str) -> AbstractContextManager[object]:
    """Nobody watches."""
    return nullcontext()
