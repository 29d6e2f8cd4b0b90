"""Opening pictures of unknown origin."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageFile, ImageOps

from harness.models.base import BadSample

if TYPE_CHECKING:
    from harness.engine.trace import Picture

MAX_PIXELS = 1 << 28
"""Larger pictures are refused: a few kilobytes of file can unpack to gigabytes."""


def open_picture(picture: Picture) -> Image.Image:
    """RGB picture from an opened one, a file or bytes, turned upright as its EXIF data say; transparency is laid on
    white, 16 bits become 8. Raises BadSample."""
    try:
        with warnings.catch_warnings(), _truncated_is_damaged():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below decides
            image = picture if isinstance(picture, Image.Image) else Image.open(_source(picture))
            if image.width * image.height > MAX_PIXELS:
                raise BadSample(f"picture of {image.width} x {image.height} pixels is larger than {MAX_PIXELS} pixels")
            if not image.width * image.height:
                raise BadSample(f"picture of {image.width} x {image.height} pixels is empty")
            image.load()
            image = ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise BadSample(f"unreadable picture: {error}") from error
    if image.mode in ("I", "F"):
        raise BadSample(f"unreadable picture: mode {image.mode} does not say which value is white")
    if image.mode.startswith("I;16"):  # PIL would cut off what is above 255
        image = image.point(lambda value: value * (1 / 256)).convert("L")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


@contextmanager
def _truncated_is_damaged() -> Iterator[None]:
    """Whatever another library, such as lmms-eval, has told PIL for the whole process."""
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _source(picture: Path | bytes) -> Path | io.BytesIO:
    return io.BytesIO(picture) if isinstance(picture, bytes) else picture
