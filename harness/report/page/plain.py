"""Values as the page's JSON holds them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]


def number(value: float | None, digits: int = 5) -> float | None:
    """With so many significant digits; None where it is not known."""
    return None if value is None or math.isnan(value) else float(f"{value:.{digits}g}")


def numbers(row: Mapping[str, Any], names: Mapping[str, str] | list[str]) -> Json:
    """These of its values; a mapping renames them."""
    pairs = names.items() if isinstance(names, Mapping) else zip(names, names, strict=True)
    return {to: number(row[name]) for name, to in pairs}


class Pool:
    """Values that many samples share, once each."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.size = 0
        self._known: dict[str, int] = {}

    def add(self, value: Any) -> int:
        """Its number; `size` grows by the characters of new ones."""
        key = json.dumps(value)
        if key not in self._known:
            self._known[key] = len(self.values)
            self.values.append(value)
            self.size += len(key)
        return self._known[key]
