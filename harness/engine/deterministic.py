"""Only kernels that round the same when they run again: torch's own switch, and what it refuses, in one line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TypeVar

import torch

T = TypeVar("T")

WORKSPACES = (":4096:8", ":16:8")
"""Values of CUBLAS_WORKSPACE_CONFIG under which cuBLAS is deterministic; it reads them when it starts."""


class NotDeterministic(RuntimeError):
    """Something cannot be computed deterministically here."""

    def __init__(self, why: object) -> None:
        first = str(why).partition(".")[0].partition(", but you set")[0]
        super().__init__(f"engine.deterministic=true cannot be kept: {first}")


def require(device: torch.device) -> None:
    """Raise NotDeterministic where the environment does not allow it."""
    if device.type == "cuda" and os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in WORKSPACES:
        raise NotDeterministic(f"cuBLAS needs CUBLAS_WORKSPACE_CONFIG={WORKSPACES[0]} in the environment")


def check(error: Exception) -> None:
    """Raise NotDeterministic if an error says that torch has no deterministic kernel."""
    if isinstance(error, RuntimeError) and "use_deterministic_algorithms" in str(error):
        raise NotDeterministic(error) from error


def steadily(made: Iterator[T]) -> Iterator[T]:
    """The same, made under `torch.use_deterministic_algorithms`, which is as before once they end.

    Raises:
        NotDeterministic: torch has no such kernel for a part of the work.
    """
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield from made
    except RuntimeError as error:
        check(error)
        raise
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
