"""Tables from finished (or running) cells.

    from harness.tables import leaderboard, load
    board = leaderboard(Path("results"), benchmarks=["glyph_*"], against="full", margin=1.0)
    board.print()              # terminal; also board.to_markdown(), board.to_csv(), board.to_latex()
    board.frame                # pandas, one row per cell, raw values
    pivot(Path("results"), rows="method", cols="benchmark", budget="ret_decode").print()
    published_table("fastv", "llava_1_5_7b").print()                           # what papers print
    cells, samples = load(Path("results"))   # tidy frames for anything else; also cells_frame(), samples_frame()

`harness.tables.stats` holds the statistics by themselves, `harness.tables.published` the published numbers,
`harness.tables.reproduction` ours beside them. What cannot be printed raises `TablesError` with one line.
"""

from harness.tables.frames import TablesError, cells_frame, load, samples_frame
from harness.tables.leaderboard import Leaderboard, leaderboard
from harness.tables.pareto import pareto
from harness.tables.pivot import Pivot, pivot
from harness.tables.published import Published, spread
from harness.tables.published_view import PublishedTable, published_table

__all__ = [
    "Leaderboard", "Pivot", "Published", "PublishedTable", "TablesError", "cells_frame", "leaderboard",
    "load", "pareto", "pivot", "published_table", "samples_frame", "spread",
]  # fmt: skip
