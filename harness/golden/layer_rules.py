"""Rules of methods inside the language model."""

from __future__ import annotations

from collections.abc import Callable

from harness.golden.compare import Golden

METHODS: dict[str, Callable[[Golden], None]] = {}
