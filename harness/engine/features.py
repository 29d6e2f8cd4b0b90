"""Vision features kept for the methods that come after."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from threading import RLock

import torch
from torch import Tensor

from harness.engine.spill import Spill
from harness.models.base import Features
from pruners.signals import Signal


@dataclass
class FeatureCache:
    """Least recently used features within a number of bytes of memory, and all of them in files, where there is a
    folder for them."""

    limit: int
    files: Spill | None = None

    def __post_init__(self) -> None:
        self.used, self.lock = 0, RLock()  # runs may take turns, each with a thread of its own
        self.entries: OrderedDict[str, Features] = OrderedDict()

    def get(self, key: str, signals: Sequence[Signal], device: torch.device) -> Features | None:
        """Features of a picture, if all of the signals were recorded with them."""
        with self.lock:
            held = self.entries.get(key)
            if held is not None and set(signals) <= set(held.signals):
                self.entries.move_to_end(key)
                return held
            found = self.files.read(key, signals, device) if self.files and key else None
            if found is not None:
                if held is not None:
                    found = replace(found, signals=held.signals | found.signals, costs=held.costs | found.costs)
                self._hold(key, found)
            return found

    def signals(self, key: str) -> tuple[Signal, ...]:
        """Signals that are in memory of a picture."""
        with self.lock:
            return tuple(self.entries[key].signals) if key in self.entries else ()

    def put(self, key: str, features: Features) -> None:
        """Keep features, at the cost of those that were not used for longest."""
        with self.lock:
            if self.files:
                self.files.write(key, features)
            self._hold(key, features)

    def _hold(self, key: str, features: Features) -> None:
        if key in self.entries:
            self.used -= _bytes(self.entries.pop(key))
        if (size := _bytes(features)) > self.limit:
            return
        self.entries[key] = alone(features)
        self.used += size
        while self.used > self.limit:
            _, gone = self.entries.popitem(last=False)
            self.used -= _bytes(gone)


def tensors(features: Features) -> list[Tensor]:
    """All that features are made of."""
    parts = [features.tokens, features.deepstack, features.token, features.size]
    return [part for part in (*parts, *chain(*features.signals.values())) if part is not None]


def alone(features: Features) -> Features:
    """The same in memory of their own: pictures that went through the tower together share theirs."""
    signals = {signal: (_own(value), _own(token)) for signal, (value, token) in features.signals.items()}
    return replace(features, tokens=_own(features.tokens), deepstack=_own(features.deepstack), signals=signals)


def _own(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor


def _bytes(features: Features) -> int:
    return sum(t.nbytes for t in tensors(features))
