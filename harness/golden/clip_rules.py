"""Rules of methods that read CLIP on both sides, and of PruMerge."""

from __future__ import annotations

from collections.abc import Callable

from harness.golden.compare import Golden

METHODS: dict[str, Callable[[Golden], None]] = {}
