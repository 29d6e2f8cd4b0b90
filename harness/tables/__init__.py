"""Tables from finished (or running) cells.

    from harness.tables import leaderboard, load
    board = leaderboard(Path("results"), benchmarks=["glyph_*"], against="full", margin=1.0)
    board.print()              # terminal; also board.to_markdown(), board.to_csv(), board.to_latex()
    board.frame                # pandas, one row per cell, raw values
    cells, samples = load(Path("results"))   # tidy frames for anything else; also cells_frame(), samples_frame()

`harness.tables.stats` holds the statistics by themselves: `accuracy`, `paired`, `holm`, `verdict`. What cannot be
printed raises `TablesError` with one line.
"""

from harness.tables.frames import TablesError, cells_frame, load, samples_frame
from harness.tables.leaderboard import Leaderboard, leaderboard

__all__ = ["Leaderboard", "TablesError", "cells_frame", "leaderboard", "load", "samples_frame"]
