"""A golden file being read and compared."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

TOLERANCE = 1e-4
"""Largest difference between features; indices have to be equal."""


class Damaged(ValueError):
    """A file lacks something that its method needs."""


def arrays(path: Path) -> dict[str, Tensor]:
    """All arrays of a file: integers as int64, the others as float32."""
    if not path.exists():
        raise Damaged("no such file")
    with np.load(path, allow_pickle=False) as file:
        found = {key: file[key] for key in file.files}
    if odd := sorted(key for key, value in found.items() if value.dtype.kind not in "iubf"):
        raise Damaged(f"{odd[0]} holds no integers or real numbers")
    if odd := sorted(key for key, value in found.items() if key.startswith("in_") and not np.isfinite(value).all()):
        raise Damaged(f"{odd[0]} holds values that are not finite")
    return {
        key: torch.from_numpy(value.astype(np.int64 if value.dtype.kind in "iub" else np.float32))
        for key, value in found.items()
    }


def written(value: float) -> float:
    """The number that float32 rounds to this value: of six digits, a fraction of small integers, or seven digits."""
    digits = float(f"{value:.6g}")
    fraction = float(Fraction(value).limit_denominator(1_000)) if math.isfinite(value) else value
    found = (x for x in (digits, fraction) if np.float32(x) == np.float32(value))
    return next(found, float(f"{value:.7g}"))


@dataclass
class Golden:
    """One golden file. A check reads inputs and hands in what the method made of them.

    Attributes:
        keys: outputs compared so far.
        max_error: largest difference of the features.
        wrong: one line for each key that differs.
        notes: what a reader of the verdict should know.
    """

    path: Path
    data: dict[str, Tensor]
    keys: list[str] = field(default_factory=list)
    max_error: float = 0.0
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __getitem__(self, key: str) -> Tensor:
        if key not in self.data:
            raise Damaged(f"{key} is missing")
        return self.data[key]

    def number(self, key: str) -> int:
        """An integer input."""
        value = self[key].item()
        if value != int(value):
            raise Damaged(f"{key} is no whole number: {value}")
        return int(value)

    def ratio(self, key: str) -> float:
        """A float input as it was written: 0.1 or 1/3, where float32 has 0.100000001 or 0.333333343."""
        return written(self[key].item())

    def shaped(self, key: str, *sizes: int | None) -> Tensor:
        """An input of this shape; None stands for any size. Raises Damaged."""
        value = self[key]
        if value.dim() != len(sizes) or any(s not in (None, got) for s, got in zip(sizes, value.shape, strict=True)):
            raise Damaged(f"{key} has shape {list(value.shape)}, which does not fit the other inputs")
        return value

    def equal(self, key: str, ours: Tensor) -> None:
        """Integers: every entry has to be the same."""
        theirs = self[key]
        if theirs.is_floating_point():
            raise Damaged(f"{key} does not hold integers")
        self.keys.append(key)
        if self._same_shape(key, ours, theirs) and not torch.equal(ours, theirs):
            where = (ours != theirs).flatten()
            first = int(where.int().argmax())
            self.wrong.append(
                f"{key}: {int(where.sum())} of {where.numel()} entries differ, the first at {first}: "
                f"{ours.flatten()[first].item()}, official {theirs.flatten()[first].item()}"
            )

    def close(self, key: str, ours: Tensor) -> None:
        """Features: within TOLERANCE."""
        theirs = self[key]
        self.keys.append(key)
        if self._same_shape(key, ours, theirs) and ours.numel():
            error = float((ours.double() - theirs.double()).abs().max())
            if not error <= TOLERANCE:  # not a number is an error too
                self.wrong.append(f"{key}: differs by {error:.3g}")
            self.max_error = max(self.max_error, error) if error == error else error

    def _same_shape(self, key: str, ours: Tensor, theirs: Tensor) -> bool:
        if ours.shape != theirs.shape:
            self.wrong.append(f"{key}: shape {list(ours.shape)}, official {list(theirs.shape)}")
        return ours.shape == theirs.shape
