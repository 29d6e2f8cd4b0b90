"""Values as the page's JSON holds them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

Json = dict[str, Any]


def records(frame: pd.DataFrame) -> list[Json]:
    """Its rows."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def number(value: float | None, digits: int = 5) -> float | None:
    """With so many significant digits; None where it is not known."""
    return None if value is None or math.isnan(value) else float(f"{value:.{digits}g}")


def numbers(row: Mapping[str, Any], names: Sequence[str]) -> Json:
    """These of its values."""
    return {name: number(row[name]) for name in names}


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
