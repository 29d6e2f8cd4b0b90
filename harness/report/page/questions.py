"""Questions and pictures of stored samples, as far as their benchmark is here."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from harness.benchmarks.base import Item
from harness.benchmarks.errors import DataError
from harness.models.base import BadSample
from harness.models.pictures import open_picture
from harness.runs.errors import InputError
from harness.runs.export.answers import stored_benchmark
from harness.runs.log import read_config
from harness.runs.outlook.planner import offline

SIDE = 448
"""Pixels of a picture's longer side in the report."""
SMALL = 200 * 200
"""Pixels up to which a picture is kept without loss."""
Shown = tuple[str, int, int]
"""A picture as a data URI, with its width and height."""


@dataclass(frozen=True)
class Questions:
    """The items of a cell's benchmark by id; none with the reason in `missing` if they are not here."""

    items: Sequence[Item]
    index: dict[str, int]
    missing: str | None = None

    @classmethod
    def of(cls, folder: Path, known: dict[str, Questions]) -> Questions:
        """Of a cell; nothing is downloaded. `known` holds those of other cells by the hash of what they ask."""
        config = read_config(folder)
        content = str(config["identity"]["data"]["content"])
        if content not in known:
            known[content] = cls._read(folder, config, content)
        return known[content]

    @classmethod
    def _read(cls, folder: Path, config: Mapping[str, Any], content: str) -> Questions:
        try:
            with offline():
                benchmark = stored_benchmark(folder, config)
                if benchmark.content_hash() != content:
                    return cls([], {}, "the data here are not those of the run")
                index = {item.id: i for i, item in enumerate(benchmark.outlines())}
                return cls(benchmark.items(), index)
        except (DataError, InputError) as error:
            return cls([], {}, str(error))

    def ask(self, sample: str) -> tuple[str | None, list[Shown], str | None]:
        """The text of a question, its pictures, and why they cannot be shown, if they cannot."""
        if self.missing or sample not in self.index:
            return None, [], self.missing or "the data here lack this sample"
        try:
            parts = self.items[self.index[sample]].content
            pictures = [made_small(open_picture(part)) for part in parts if not isinstance(part, str)]
        except (BadSample, DataError) as error:
            return None, [], str(error)
        return " ".join(part.strip() for part in parts if isinstance(part, str)), pictures, None


def made_small(picture: Image.Image) -> Shown:
    """A picture in WebP."""
    picture = picture.copy()  # the benchmark's own stays as it is
    picture.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    lossless = picture.width * picture.height <= SMALL
    picture.save(out, "WEBP", lossless=lossless, quality=75, method=6)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode(), picture.width, picture.height
