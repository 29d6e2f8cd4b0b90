"""RVIS events against a plain loop, and what is said of them."""

from __future__ import annotations

import random

import numpy as np
import pandas as pd

from harness.report.analysis.rvis import draw, findings, rvis_events


def slow_events(similarity: list[float], threshold: float) -> list[int]:
    """Plateaus lower than both their neighbours and than the threshold; the middle step of each, the left of two."""
    found, start = [], 0
    for i in range(1, len(similarity) + 1):
        if i < len(similarity) and similarity[i] == similarity[start]:
            continue
        inner = start > 0 and i < len(similarity)
        if inner and similarity[start - 1] > similarity[start] < similarity[i] and similarity[start] < threshold:
            found.append((start + i - 1) // 2)
        start = i
    return found


def test_events_equal_a_plain_loop() -> None:
    rng = random.Random(0)
    for _ in range(200):
        values = [rng.choice((0.1, 0.3, 0.5, 0.69, 0.7, 0.71, 0.9)) for _ in range(rng.randint(0, 30))]
        assert rvis_events(np.array(values)).tolist() == slow_events(values, 0.7), values


def frame(**changes: object) -> pd.DataFrame:
    """Two tasks of 40 replies; the walks' events grow with their length, and wrong ones have five more."""
    rows = []
    for i in range(40):
        common = {"model": "m", "layer": 2, "watched": True, "mean_similarity": 0.5}
        rows.append(
            common | {"task": "glance", "id": f"g{i}", "category": "g", "correct": 1, "trace_length": 2, "events": 0}
        )
        length, wrong = 10 + i // 4, i % 4 == 0
        rows.append(common | {"task": "walk", "id": f"w{i}", "category": f"steps-{length}", "correct": 1 - wrong,
                              "trace_length": length, "events": length + 5 * wrong})  # fmt: skip
    return pd.DataFrame(rows).assign(**changes)


def test_findings_say_what_the_table_says() -> None:
    reasoning, length, success = findings(frame())
    assert (reasoning.holds, length.holds, success.holds) == (True, True, True)
    assert "glance 0.00" in reasoning.numbers and "walk 15.75" in reasoning.numbers
    assert "have +5.00 events (10 wrong of 40)" in success.numbers


def test_findings_can_fail() -> None:
    reasoning, length, success = findings(frame(events=3 - frame().events))
    assert (reasoning.holds, length.holds, success.holds) == (False, False, False)
    *_, success = findings(frame(correct=1))
    assert success.holds is None


def test_other_layers_are_passed_over() -> None:
    other = frame(layer=0, watched=False, events=99)
    assert findings(pd.concat([frame(), other])) == findings(frame())


def test_figure_has_three_panels() -> None:
    assert len(draw(frame()).axes) == 3
