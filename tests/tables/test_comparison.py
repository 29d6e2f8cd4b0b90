"""May two numbers be compared, and do they differ: reasons one by one, drift against simulated repetitions."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from harness.tables.comparison import Ours, drift, obstacles, spread_of

OURS = Ours(60.0, 58.0, 62.0, 788)
ROW = {"status": "ok", "trained": "false", "note": "", "convention_flags": ""}


def test_equal_settings_are_comparable():
    assert obstacles(OURS, ROW, 788, "") == []
    assert obstacles(OURS, ROW, math.nan, "gpt-4o-mini") == [], "no judge matters where the rule asks none"


@pytest.mark.parametrize(
    ("ours", "row", "n", "judge", "reason"),
    [
        ({"n": 3940}, {}, 788, "", "N 3940 vs 788"),
        ({"judged": True}, {}, 788, "gpt-4o-mini", "judge none vs gpt-4o-mini"),
        ({"judged": True, "judge": "qwen"}, {}, 788, "gpt-4o-mini", "judge qwen vs gpt-4o-mini"),
        ({"changed": ["protocol.max_new_tokens"]}, {}, 788, "", "run with protocol.max_new_tokens changed"),
        ({"stand_in": "tiny on glyph_walk"}, {}, 788, "", "self-test: tiny on glyph_walk"),
        ({}, {"status": "quarantined", "note": "unit unknown"}, 788, "", "quarantined: unit unknown"),
        ({}, {"convention_flags": "inferred:textvqa_ocr"}, 788, "", "prompt without OCR tokens, theirs with"),
        ({"ocr": True}, {"convention_flags": "textvqa_no_ocr"}, 788, "", "prompt with OCR tokens, theirs without"),
        ({}, {"trained": "true"}, 788, "", "the published one is trained"),
    ],
)
def test_every_obstacle_is_named(ours, row, n, judge, reason):
    assert obstacles(replace(OURS, **ours), ROW | row, n, judge) == [reason]


def test_the_reasons_of_the_issue():
    ours = replace(OURS, n=3940, judged=True)
    assert "; ".join(obstacles(ours, ROW, 788, "gpt-4o-mini")) == "N 3940 vs 788; judge none vs gpt-4o-mini"


def test_a_value_that_only_sampling_moves_drifts_in_one_of_twenty_cases():
    """Two evaluations of the same accuracy, on samples of their own: the definition of the 5 % level."""
    rng = np.random.default_rng(7)
    ours, theirs = rng.binomial(1000, 0.6, 4000) / 10, rng.binomial(788, 0.6, 4000) / 7.88
    half = 1.96 * np.sqrt(ours * (100 - ours) / 1000)
    found = [
        drift(Ours(x, x - h, x + h, 1000), y, spread_of(y, 788, "percent"))
        for x, h, y in zip(ours, half, theirs, strict=True)
    ]
    share = np.mean([verdict == "drifts" for _, verdict in found if verdict])
    assert 0.04 < share < 0.06


def test_no_verdict_without_both_errors():
    assert spread_of(1862, 2374, "points") is None, "points are no share"
    assert spread_of(61.3, math.nan, "percent") is None
    assert drift(OURS, 61.29, None) is None
    assert drift(Ours(60.0, None, None, 788), 61.29, 1.7) is None


def test_drift_by_hand():
    error = spread_of(50.0, 400, "percent")
    assert error == pytest.approx(2.5)
    z, verdict = drift(Ours(58.0, 58 - 1.959963984540054 * 3, 58 + 1.959963984540054 * 3, 300), 50.0, error)
    assert (z, verdict) == (pytest.approx(8 / math.sqrt(3**2 + 2.5**2)), "drifts")
    assert drift(Ours(50.0, 50.0, 50.0, 5), 50.0, 0.0) == (0.0, "agrees")
