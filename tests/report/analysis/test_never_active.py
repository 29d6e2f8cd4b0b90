"""Shares of tokens that are never active against the record, and what is said of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from harness.report.analysis import never_active
from harness.report.analysis.never_active import draw, findings, measure
from tests.report.analysis.made import ask, reply, stored

SHARES = ["never_0.0005", "never_0.001", "never_0.0015", "never_0.002"]


def test_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    ever = [[64, 32, 16, 0], [48, 4, 3, 2], [1, 1, 1, 1], [8, 8, 8, 8]]
    stored(monkeypatch, never_active, reply(ever=ever), reply(text=" 3", id="00002"))
    frame = measure(ask())
    assert frame[frame.id == "00001"][SHARES].to_numpy().tolist() == [[1 - n / 64 for n in row] for row in ever]
    assert frame[frame.watched].layer.tolist() == [2, 2]
    assert frame[frame.watched].trace_length.tolist() == [17, 2]


def made(**changes: object) -> pd.DataFrame:
    """80 replies, the longer the fewer tokens are left; another layer leaves none."""
    lengths = np.arange(80) + 10
    own = pd.DataFrame({"model": "m", "task": "t", "id": "1", "category": "c", "trace_length": lengths})
    own = own.assign(layer=2, watched=True, visual_tokens=64, **{s: 0.95 - lengths / 400 for s in SHARES}, **changes)
    return pd.concat([own, own.assign(layer=0, watched=False, **dict.fromkeys(SHARES, 0.0))])


def test_findings_hold() -> None:
    most, shrinks = findings(made())
    assert most.holds and shrinks.holds
    assert "83 % never above 0.0005" in most.numbers and "80 replies, layer 2" in most.numbers
    assert "rho -1.00" in shrinks.numbers
    assert "90 % in the shortest quarter (20 tokens), 75 % in the longest quarter (80 tokens)" in shrinks.numbers


def test_findings_can_fail() -> None:
    grown = made()
    grown["trace_length"] = 100 - grown.trace_length
    assert [found.holds for found in findings(grown)] == [True, False]
    low = made()
    low["never_0.0005"] = 0.4
    assert [found.holds for found in findings(low)] == [False, True]


def test_figure() -> None:
    frame = pd.concat([made(), made().assign(model="other", task="u")])
    by_length, by_task, by_layer = draw(frame).axes
    assert [len(line.get_xdata()) for line in by_length.lines] == [12, 12]
    assert len(by_task.get_xticklabels()) == 2
    assert by_layer.lines[0].get_ydata()[0] == 0  # the other layer
