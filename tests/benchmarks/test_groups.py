"""Metrics over groups: categories, circular questions, capabilities."""

from __future__ import annotations

import random

import pytest

from harness.benchmarks.base import Item
from harness.benchmarks.scoring import METRICS, Scored, Verdict
from harness.benchmarks.scoring.verdict import unjudged


def sample(name: int | str, value: float | None, category: str = "", **meta: object) -> Scored:
    verdict = unjudged("r") if value is None else Verdict(value == 1.0, value, "A", "r")
    return Scored(Item(str(name), (), "A", str(name), category, meta=meta), verdict)


def circular(*values: float | None, question: int, size: int) -> list[Scored]:
    """The first rotations of a question."""
    return [
        sample(question + i * 1_000_000, value, options=["x"] * size, group_size=size) for i, value in enumerate(values)
    ]


def test_macro_is_not_the_mean() -> None:
    """As MMStar: the mean of its categories differs from the mean of its samples."""
    samples = [
        sample(i, value, category) for i, (category, value) in enumerate([("a", 1), ("a", 1), ("a", 1), ("b", 0)])
    ]
    measure = METRICS["macro"](samples)
    assert (measure.value, measure.n) == (0.5, 2) and METRICS["mean"](samples).value == 0.75
    assert "1 of 5 samples are unjudged" in METRICS["macro"]([*samples, sample(9, None, "c")]).note
    assert METRICS["macro"]([]).value is None


def test_a_question_needs_all_its_rotations() -> None:
    samples = [*circular(1, 1, question=1, size=2), *circular(1, 1, 0, question=2, size=3)]
    random.Random(0).shuffle(samples)
    measure = METRICS["mmbench.circular"](samples)
    assert (measure.value, measure.n, measure.note) == (0.5, 2, "")


def test_incomplete_questions_are_left_out_and_told() -> None:
    samples = [
        *circular(1, 1, question=1, size=2),
        *circular(1, 1, question=2, size=3),
        *circular(0, question=3, size=4),
    ]
    measure = METRICS["mmbench.circular"](samples)
    assert (measure.value, measure.n) == (1.0, 1)
    assert measure.note == "2 of 3 questions do not have all their rotations and are left out"
    assert METRICS["mmbench.circular"]([]).value is None
    by_options = METRICS["mmbench.circular"]([sample(7, 1.0, options=["x", "y"])])
    assert (by_options.value, by_options.n) == (None, 0)


def test_an_unjudged_rotation_leaves_the_question_open_unless_another_is_wrong() -> None:
    samples = [*circular(1, None, question=1, size=2), *circular(0, None, question=2, size=2)]
    measure = METRICS["mmbench.circular"](samples)
    assert (measure.value, measure.n) == (0.0, 1) and "1 of 2 questions are unjudged" in measure.note


def test_questions_drawn_twice_count_twice() -> None:
    good, bad = circular(1, 1, question=1, size=2), circular(1, 0, question=2, size=2)
    measure = METRICS["mmbench.circular"]([*good, *good, *good, *bad])
    assert (measure.value, measure.n) == (0.75, 4)


def test_capabilities() -> None:
    samples = [
        sample("v1_0", 0.2, capabilities=["ocr", "math"]), sample("v1_1", 0.6, capabilities=["ocr"]),
        sample("v1_2", 1.0, capabilities=["rec"]),
    ]  # fmt: skip
    values = {name: METRICS[f"mmvet.{name}"](samples).value for name in ("total", "ocr", "math", "rec", "know")}
    assert values == {"total": pytest.approx(0.6), "ocr": pytest.approx(0.4), "math": 0.2, "rec": 1.0, "know": None}
