"""Prompts kept for the methods that come after, so that a sweep opens each picture once."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import RLock

from harness.engine.trace import Picture, Request
from harness.models.base import BadSample, Prompt
from harness.models.pictures import open_picture


@dataclass
class PromptCache:
    """Least recently used prompts within a number of bytes. They hold no pixels, as those are for the tower alone: it
    makes them again (`Prompt.again`) if features are not at hand."""

    limit: int

    def __post_init__(self) -> None:
        self.used, self.lock = 0, RLock()
        self.entries: OrderedDict[Hashable, Prompt] = OrderedDict()

    def get(self, request: Request, how: object, make: Callable[[Request], Prompt]) -> Prompt:
        """The prompt of a request as `make` makes it; `how` tells apart what is made of equal requests."""
        key = identity(request, how) if self.limit else None
        with self.lock:
            if key is not None and key in self.entries:
                self.entries.move_to_end(key)
                return replace(self.entries[key], again=partial(make, request))
        made = make(request)
        if key is not None and all(picture.key for picture in made.pictures):
            self._hold(key, made)
        return made

    def _hold(self, key: Hashable, prompt: Prompt) -> None:
        bare = tuple(replace(picture, pixels=picture.pixels.to("meta")) for picture in prompt.pictures)
        with self.lock:
            self.entries[key] = replace(prompt, pictures=bare)
            self.used += _bytes(prompt)
            while self.used > self.limit:
                _, gone = self.entries.popitem(last=False)
                self.used -= _bytes(gone)


def identity(request: Request, how: object) -> Hashable:
    """What a prompt follows from; None: nobody can tell."""
    try:
        content = tuple(part if isinstance(part, str) else _shown(part) for part in request.content)
        key = (request.id, content, request.system, how)
        hash(key)
    except (OSError, BadSample, TypeError):
        return None
    return key


def _shown(picture: Picture) -> Hashable:
    """What tells a picture from others: of a file, where it is, its size and when it was written."""
    if isinstance(picture, Path):
        about = picture.stat()
        return os.path.abspath(picture), about.st_size, about.st_mtime_ns
    if isinstance(picture, bytes):
        return hashlib.sha256(picture).digest()
    image = open_picture(picture)
    return image.size, hashlib.sha256(image.tobytes()).digest()


def _bytes(prompt: Prompt) -> int:
    layouts = [layout for layout in (prompt.layout, prompt.units) if layout is not None]
    rows = [row for x in layouts for row in (x.picture, x.crop, x.row, x.column, x.kind)]
    places = [picture.place for picture in prompt.pictures if picture.place is not None]
    return sum(tensor.nbytes for tensor in (prompt.ids, prompt.positions, prompt.visual, *rows, *places))
