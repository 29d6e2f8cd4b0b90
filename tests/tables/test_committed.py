"""The committed leaderboards are what the code prints from the summaries stored beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from harness.tables import Leaderboard
from harness.tables.caption import notes

FOLDER = Path(__file__).parents[2] / "results" / "leaderboard"
DICTIONARIES = ("scoring", "assumed", "changed", "setting", "params", "config")


def stored(file: Path) -> pd.DataFrame:
    frame = pd.read_csv(file, keep_default_na=False, na_values=[""])
    return frame.assign(**{key: frame[key].map(json.loads) for key in DICTIONARIES})


@pytest.mark.parametrize("name", sorted(file.stem for file in FOLDER.glob("*.md")))
def test_markdown_is_what_the_code_prints(name):
    frame = stored(FOLDER / f"{name}.csv")
    against = "base" if name.endswith("against_base") else "full"
    board = Leaderboard(frame, notes(frame, 1.0, against), "make leaderboard")
    assert board.to_markdown() == (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def test_there_are_leaderboards():
    assert list(FOLDER.glob("*.md"))
