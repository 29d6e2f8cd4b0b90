"""SparseVLM and SparseVLM+, and FlowCut inside the vision tower."""

from __future__ import annotations

from collections.abc import Callable

from harness.golden.compare import Golden

METHODS: dict[str, Callable[[Golden], None]] = {}
