"""What is said of the cells that a grid leaves out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

FEW = 5
"""So many skipped cells are said one by one."""
SHOWN = 12
"""So many names stand in a line."""


def summary(skipped: Sequence[tuple[str, str]]) -> Iterator[str]:
    """A line per reason, unless cells are few; reasons that differ in one quoted name alone share a line.

    Args:
        skipped: (cell, reason) of each.
    """
    if len(skipped) <= FEW:
        yield from in_full(skipped)
        return
    kinds: dict[tuple[str, str], list[str]] = {}
    for cell, reason in skipped:
        before, name, after = reason.split("'") if reason.count("'") == 2 else (f"{reason} (", cell, ")")
        kinds.setdefault((before, after), []).append(name)
    for (before, after), names in kinds.items():
        once = list(dict.fromkeys(names))
        more = f" and {len(once) - SHOWN} more (see --skipped)" if len(once) > SHOWN else ""
        count = "1 cell" if len(names) == 1 else f"{len(names)} cells"
        yield f"skipped {count}: {before}{', '.join(once[:SHOWN])}{more}{after}"


def in_full(skipped: Sequence[tuple[str, str]]) -> Iterator[str]:
    """A line per cell."""
    return (f"skipped {cell}: {reason}" for cell, reason in skipped)
