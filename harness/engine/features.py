"""Vision features kept for the methods that come after: in memory first, then in files."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from harness.accounting.flops import TowerLayer
from harness.models.base import Features
from harness.notices import say_once
from pruners.signals import Signal


@dataclass
class FeatureCache:
    """Least recently used features within a number of bytes.

    Args:
        limit: bytes of memory.
        folder: what leaves memory goes there, a file per picture; None: it is forgotten. A folder serves one model, one
            revision and one processor: keys tell pictures apart, nothing else.
    """

    limit: int
    folder: Path | None = None

    def __post_init__(self) -> None:
        self.used = 0
        self.entries: OrderedDict[str, Features] = OrderedDict()

    def get(self, key: str, signals: Sequence[Signal], device: torch.device) -> Features | None:
        """Features of a picture, if all of the signals were recorded with them."""
        found = self.entries.get(key)
        if found is None or not set(signals) <= set(found.signals):
            found = self._read(key, signals, device)
            if found is None:
                return None
            self.put(key, found)
        if key in self.entries:
            self.entries.move_to_end(key)
        return found

    def signals(self, key: str) -> tuple[Signal, ...]:
        """Signals that are in memory of a picture."""
        return tuple(self.entries[key].signals) if key in self.entries else ()

    def put(self, key: str, features: Features) -> None:
        """Keep features, at the cost of those that were not used for longest."""
        if key in self.entries:
            self.used -= _bytes(self.entries.pop(key))
        self.entries[key] = features
        self.used += _bytes(features)
        while self.used > self.limit and self.entries:
            left, gone = self.entries.popitem(last=False)
            self.used -= _bytes(gone)
            self._write(left, gone)

    def _path(self, key: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{key}.safetensors"

    def _write(self, key: str, features: Features) -> None:
        """Add what is not yet in a picture's file."""
        path = self._path(key)
        if path is None:
            return
        told, held = _opened(path, features.tokens.device)
        names = [*told.get("costs", {})]
        new = {repr(s): pair for s, pair in features.signals.items() if repr(s) not in names}
        if told and not new:
            return
        held |= {"tokens": features.tokens, "deepstack": features.deepstack}
        for name, (value, token) in new.items():
            held |= {f"value {name}": value, f"token {name}": token}
        costs = {repr(signal): features.costs.get(signal) for signal in features.signals} | told.get("costs", {})
        told = {"costs": costs, "tower_tokens": features.tower_tokens}
        part = path.with_suffix(f".{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({n: t.contiguous() for n, t in held.items()}, part, {"vtpbench": json.dumps(told)})
            part.replace(path)
        except (OSError, SafetensorError) as error:
            self.folder = None
            part.unlink(missing_ok=True)
            say_once(f"vision features are no longer written to {path.parent}: {error}")

    def _read(self, key: str, signals: Sequence[Signal], device: torch.device) -> Features | None:
        path = self._path(key)
        told, held = ({}, {}) if path is None else _opened(path, device)
        if not told or not {repr(signal) for signal in signals} <= set(told["costs"]):
            return None
        costs = {signal: cost for signal in signals if (cost := told["costs"][repr(signal)]) is not None}
        return Features(
            held["tokens"], held["deepstack"],
            signals={s: (held[f"value {s!r}"], held[f"token {s!r}"]) for s in signals},
            tower_tokens=[[TowerLayer(tuple(a), b, c) for a, b, c in crop] for crop in told["tower_tokens"]],
            costs=costs,
        )  # fmt: skip


def _opened(path: Path, device: torch.device) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a file tells in words and in tensors; nothing of one that is absent or damaged."""
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            names = file.keys()
            return json.loads(file.metadata()["vtpbench"]), {name: file.get_tensor(name) for name in names}
    except FileNotFoundError:
        return {}, {}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        say_once(f"damaged files of vision features are made again; the first is {path}: {error}")
        return {}, {}


def tensors(features: Features) -> list[Tensor]:
    """All that features are made of."""
    parts = [features.tokens, features.deepstack, features.token, features.size]
    return [part for part in (*parts, *chain(*features.signals.values())) if part is not None]


def _bytes(features: Features) -> int:
    return sum(t.numel() * t.element_size() for t in tensors(features))
