"""Vision features in files, for whoever runs the same model on the same pictures next."""

from __future__ import annotations

import json
import os
import threading
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from harness.accounting.flops import TowerLayer
from harness.models.base import Features
from harness.notices import say_once
from pruners.signals import Signal

OURS = "[0-9a-f]" * 64 + ".*"
"""Files are named by the keys of pictures; nothing else in the folder is ever deleted."""
MOST_WORDS = 1 << 24


@dataclass
class Spill:
    """A file per picture. Files are whole or absent, however many processes write them.

    Args:
        folder: serves one model, one revision and one processor: keys tell pictures apart, nothing else.
        limit: bytes on disk; the files that were not used for longest leave first.
    """

    folder: Path
    limit: int

    def __post_init__(self) -> None:
        self.writes, self.damaged, self.room = True, False, 0

    def read(self, key: str, signals: Sequence[Signal], device: torch.device) -> Features | None:
        """Features of a picture, if all of the signals are in its file."""
        names, path = {repr(signal) for signal in signals}, self._path(key)
        told, held = self._opened(path)
        if not told or not names <= set(told["costs"]):
            return None
        with suppress(OSError):
            os.utime(path)

        def of(name: str) -> Tensor:
            return held[name].to(device)

        return Features(
            of("tokens"), of("deepstack"), signals={s: (of(f"value {s!r}"), of(f"token {s!r}")) for s in signals},
            tower_tokens=[[TowerLayer(tuple(a), b, c) for a, b, c in crop] for crop in told["tower_tokens"]],
            costs={s: cost for s in signals if (cost := told["costs"][repr(s)]) is not None},
        )  # fmt: skip

    def write(self, key: str, features: Features) -> None:
        """Add what is not yet in a picture's file."""
        path, names = self._path(key), {repr(signal): signal for signal in features.signals}
        told, _ = self._opened(path, whole=False)
        if not self.writes or (told and set(names) <= set(told["costs"])):
            return
        told, held = self._opened(path)
        held |= {"tokens": features.tokens, "deepstack": features.deepstack}
        for name, signal in names.items():
            held[f"value {name}"], held[f"token {name}"] = features.signals[signal]
        # A file holds no memory twice, and signals may share theirs.
        held = {name: tensor.cpu().clone(memory_format=torch.contiguous_format) for name, tensor in held.items()}
        costs = told.get("costs", {}) | {name: features.costs.get(signal) for name, signal in names.items()}
        sums = {name: _checksum(tensor) for name, tensor in held.items()}
        text = json.dumps({"costs": costs, "tower_tokens": features.tower_tokens, "sums": sums})
        part = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(held, part, {"vtpbench": text, "sum": str(zlib.crc32(text.encode()))})
            self.room -= part.stat().st_size
            part.replace(path)
            if self.room < 0:
                self._trim()
        except (OSError, SafetensorError) as error:
            self.writes = False
            with suppress(OSError):
                part.unlink(missing_ok=True)
            say_once(f"vision features are no longer written to {self.folder}: {error}")

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _opened(self, path: Path, whole: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What a file tells in words, and its tensors; nothing of one that is absent or damaged."""
        try:
            with path.open("rb") as file:  # opened once: another process may put a new one in its place
                header = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), MOST_WORDS)))
                about = header["__metadata__"]
                told, held = json.loads(about["vtpbench"]), dict[str, Tensor]()
                if whole:
                    file.seek(0)
                    held = load(file.read())
            if whole and {name: _checksum(tensor) for name, tensor in held.items()} != told["sums"]:
                raise ValueError("wrong checksum")
            if zlib.crc32(about["vtpbench"].encode()) != int(about["sum"]):
                raise ValueError("wrong checksum")
            return told, held
        except FileNotFoundError:
            return {}, {}
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            if not self.damaged:
                say_once(f"damaged files of vision features are made again; the first is {path}: {error}")
            self.damaged = True
            with suppress(OSError):
                path.unlink(missing_ok=True)
            return {}, {}

    def _trim(self) -> None:
        """Delete what is too much; done again after a 64th of the limit, as others may be writing too."""
        self.room, found = self.limit // 64, list[tuple[float, int, Path]]()
        for path in self.folder.glob(OURS):
            with suppress(FileNotFoundError):
                about = path.stat()
                found.append((about.st_mtime, about.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.limit - self.room:
                break
            path.unlink(missing_ok=True)
            total -= size


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.contiguous().view(torch.uint8).numpy().data)
