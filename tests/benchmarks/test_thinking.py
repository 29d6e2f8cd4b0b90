"""Which part of a reply is scored."""

from __future__ import annotations

import pytest

from harness.benchmarks.scoring.thinking import answer_part

THOUGHT = "so so </think> 4"


@pytest.mark.parametrize(
    ("text", "thinking", "how", "answer"),
    [
        (THOUGHT, True, "cut", "4"),
        (THOUGHT, False, "cut", "4"),
        ("a </think> b </think> 4", True, "cut", "4"),
        ("so so </think>\n\nNo\n", True, "cut", "No"),
        ("B\n", False, "cut", "B"),
        (" B ", True, "whole", "B"),
        ("so so", True, "cut", None),
        ("4", False, "cut", "4"),
        ("so so", True, "cut_or_whole", "so so"),
        (THOUGHT, True, "cut_or_whole", "4"),
        (THOUGHT, True, "whole", THOUGHT),
    ],
)
def test_only_the_answer_is_scored(text, thinking, how, answer):
    assert answer_part(text, thinking, how) == answer
