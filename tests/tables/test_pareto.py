"""Pareto fronts and bands of equal budget against their definitions, spelled out."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.tables.bands import TOLERANCE, bands
from harness.tables.frames import TablesError
from harness.tables.pareto import machines, pareto, total_flops

POINTS = st.tuples(st.integers(0, 4), st.integers(0, 4), st.sampled_from(["a", "b"]))
BUDGETS = st.lists(st.floats(0.0, 1.0) | st.just(math.nan), max_size=20)


def cells(points: list[tuple[float, float, str]], method: str = "fastv") -> pd.DataFrame:
    frame = pd.DataFrame(points, columns=["accuracy", "seconds", "title"])
    return frame.astype({"accuracy": "float64", "seconds": "float64"}).assign(method=method)


@given(st.lists(POINTS, max_size=12))
def test_the_front_is_what_nothing_dominates(points: list[tuple[int, int, str]]) -> None:
    def dominated(one: tuple[int, int, str]) -> bool:
        return any(
            other[2] == one[2]
            and other[0] >= one[0]
            and other[1] <= one[1]
            and (other[0] > one[0] or other[1] < one[1])
            for other in points
        )

    found = list(pareto(cells(points), "seconds"))  # type: ignore[arg-type]
    assert found == [not dominated(point) for point in points]


def test_ties_stay_and_what_is_unknown_or_cheats_does_not_compete() -> None:
    frame = cells([(0.5, 1, "a"), (0.5, 1, "a"), (math.nan, 0, "a"), (0.9, math.nan, "a"), (1.0, 0.5, "a")])
    frame.loc[4, "method"] = "oracle"
    assert list(pareto(frame, "seconds")) == [True, True, False, False, False]
    with pytest.raises(TablesError, match="flops, seconds, ret_prefill, ret_decode, kv; got dollars"):
        pareto(frame, "dollars")


def test_flops_are_the_sum_of_all_parts() -> None:
    parts = {"flops_vision": [1.0, 1.0], "flops_prefill": 2.0, "flops_decode": 3.0, "flops_overhead": [4.0, math.nan]}
    frame = cells([(0.5, 0, "a"), (0.4, 0, "a")]).assign(**parts)
    assert total_flops(frame)[0] == 10 and math.isnan(total_flops(frame)[1])
    assert list(pareto(frame)) == [True, False]


@given(BUDGETS)
def test_bands_split_the_budgets_from_the_largest_down(budgets: list[float]) -> None:
    found = bands(budgets)
    assert [band is None for band in found] == [math.isnan(b) for b in budgets]
    known = sorted(((b, n) for b, n in zip(budgets, found, strict=True) if n), reverse=True)
    tops: dict[int, float] = {}
    for budget, band in known:
        if tops and budget >= tops[len(tops)] * (1 - TOLERANCE):
            assert band == len(tops)
        else:
            assert band == len(tops) + 1
            tops[band] = budget


def test_bands_of_an_example() -> None:
    assert bands([0.33, 1.0, 0.34, 0.111, math.nan, 0.0, 0.96, 0.0]) == [2, 1, 2, 3, None, 4, 1, 4]
    assert bands([100.0, 90.0, 80.0], tolerance=0.1) == [1, 1, 2]


def test_machines_are_read_from_the_environment(tmp_path: Path) -> None:
    for name, text in {
        "one": json.dumps({"c0de": {"devices": "cuda:0", "platform": "Linux"}}),
        "two": json.dumps({c: {"devices": c, "platform": "Linux"} for c in ("cpu", "cuda:0")}),
        "bad": "[1",
        "old": json.dumps({"c0de": {"device": "cpu"}}),
    }.items():
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "environment.json").write_text(text)
    found = machines(tmp_path, ["one", "two", "bad", "old", "none"])
    assert found == {
        "one": {"cuda:0 (Linux)"},
        "two": {"cpu (Linux)", "cuda:0 (Linux)"},
        "bad": frozenset(),
        "old": frozenset(),
        "none": frozenset(),
    }
    assert machines(tmp_path / "runs", ["one"]) == {"one": {"cuda:0 (Linux)"}}
