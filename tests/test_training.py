"""Training the tiny models works: every task's loss falls, for every family."""

from __future__ import annotations

import pytest
import torch

from harness.benchmarks import glyphs
from scripts.tiny.families import FAMILIES
from scripts.tiny.world import TASKS
from scripts.train_tiny import Training

STEPS, EDGE = 200, 20


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_falls(family: str) -> None:
    """The mean of the last 20 of 200 steps is below 0.9 x that of the first 20, for each task."""
    training = Training(family, STEPS, 2e-3, shrink=4)
    losses = [training.advance() for _ in range(STEPS)]
    for task in (*TASKS, "named"):
        first, last = (sum(step[task] for step in part) / EDGE for part in (losses[:EDGE], losses[-EDGE:]))
        assert last < 0.9 * first, (task, first, last)


def test_a_checkpoint_goes_on_where_it_was(tmp_path) -> None:
    """Stored after one step and resumed, the second step is the same."""
    whole = Training("llava", STEPS, 2e-3, shrink=8)
    whole.advance()
    whole.store(tmp_path / "checkpoint.pt")
    resumed = Training("llava", STEPS, 2e-3, shrink=8)
    resumed.resume(tmp_path / "checkpoint.pt")
    assert resumed.advance() == whole.advance()


def test_pointing_words_know_their_cell() -> None:
    """Names of cells point at them, colours where they occur once, in the picture that the question is about."""
    training = Training("internvl", STEPS, 2e-3, shrink=8)
    names = "a1 c2 cyan red how"
    ids = torch.tensor([training.tokenizer.encode(" " + names)])
    colours = torch.tensor([[list(glyphs.COLOURS).index("red")] * 63 + [list(glyphs.COLOURS).index("cyan")]])
    cell, by_colour = training.alignment.pointed(ids, colours)
    assert cell.tolist() == [[0, 10, 63, -1, -1]]
    assert by_colour.tolist() == [[False, False, True, True, False]]
