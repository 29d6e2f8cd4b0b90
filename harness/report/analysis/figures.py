"""One look for all figures, and their files."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Told apart by colour-blind readers (Okabe and Ito)."""
STYLE: dict[str, Any] = {
    "font.size": 9, "axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.alpha": 0.25, "legend.frameon": False, "legend.fontsize": 8, "svg.hashsalt": "vtpbench", "figure.dpi": 100,
    "savefig.dpi": 130, "axes.axisbelow": True,
    "pdf.fonttype": 42, "text.parse_math": False,
}  # fmt: skip


def panels(rows: int, columns: int, width: float = 3.4, height: float = 2.7) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels of this size in inches, and its axes row by row."""
    rc: Any = matplotlib.rcParams
    rc.update(STYLE)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def colours(names: list[str]) -> dict[str, str]:
    """A colour for each name, the same for the same list."""
    return dict(zip(names, cycle(COLOURS), strict=False))


def save(figure: Figure, stem: Path) -> None:
    """Write `<stem>.png` and `<stem>.svg`; equal figures give equal files."""
    figure.savefig(stem.with_suffix(".png"), metadata={"Software": None})
    figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})
