"""How much padding LLaVA-NeXT takes off, without transformers, which takes seconds to import."""

from __future__ import annotations


def unpadded(height: int, width: int, down: int, across: int) -> tuple[int, int]:
    """Rows and columns of patches, of a grid of down x across, that stay of a picture of so many pixels.

    As in the stock model: what is taken off on both sides is equal, so that a row or column of padding may stay.
    """
    if width / height > across / down:
        shown = int(round(height * (across / width), 7))
        return down - (down - shown) // 2 * 2, across
    shown = int(round(width * (down / height), 7))
    return down, across - (across - shown) // 2 * 2
