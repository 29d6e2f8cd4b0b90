"""Mass, active tokens and budgets: rows against the record, budgets against the presets' rule, findings both ways."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest

from harness.report.analysis import mass
from harness.report.analysis.mass import anchor, draw, findings, measure
from harness.report.analysis.mass_figure import correlations
from tests.report.analysis.made import WALK, ask, reply, stored

REPLIES = [reply(id=str(i), text=WALK if i % 2 else " 3", task="glyph_walk" if i % 2 else "glyph_lookup")
           for i in range(40)]  # fmt: skip


@pytest.fixture
def frame(monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    stored(monkeypatch, mass, *REPLIES)
    return measure(ask())


def test_rows_are_two_steps_of_each_reply_in_all_layers(frame: pd.DataFrame) -> None:
    assert len(frame) == 40 * 2 * 4
    assert (frame.groupby("id").step.nunique() == 2).all()
    assert (frame.groupby(["id", "step"]).layer.apply(list).map(tuple) == (0, 1, 2, 3)).all()
    assert frame[frame.task == "glyph_walk"].step.nunique() > 8  # not always the same ones
    for row in frame.to_dict("records"):
        seen = REPLIES[int(row["id"])]
        for name in ("mass", "active_0.0005", "active_0.002"):
            assert row[name] == seen.measure(name)[row["step"], row["layer"]]
        assert row["position"] == row["step"] / (len(seen.steps) - 1)
    assert (frame.watched == (frame.layer == 2)).all()  # 17/36 of 4 layers


def test_steps_do_not_depend_on_the_order_of_replies(monkeypatch: pytest.MonkeyPatch, frame: pd.DataFrame) -> None:
    stored(monkeypatch, mass, *REPLIES[::-1])
    columns = ["id", "step", "layer"]
    again = measure(ask())
    pd.testing.assert_frame_equal(
        *(x.sort_values(columns, ignore_index=True) for x in (frame, again))
    )  # fmt: skip


@pytest.mark.parametrize(("preset", "tau", "low", "high"), [("10", 0.4, 0.05, 0.1), ("5", 0.1, 0.01, 0.05)])
def test_budgets(monkeypatch: pytest.MonkeyPatch, preset: str, tau: float, low: float, high: float) -> None:
    values = REPLIES[1].steps.copy()
    raw = np.resize([0.0, low, (low + high) / 2, high, 1.0], values.shape[:2])
    values[:, :, REPLIES[1].record["measures"].index(f"budget_{tau}")] = raw
    stored(monkeypatch, mass, *[reply(id=str(i), values=values) for i in range(30)])
    frame = measure(ask())
    assert frame[frame.step == 0][[f"budget_{preset}", f"at_{preset}"]].isna().all(axis=None)
    expected = {0.0: (low, "floor"), low: (low, "floor"), (low + high) / 2: ((low + high) / 2, "between"),
                high: (high, "cap"), 1.0: (high, "cap")}  # fmt: skip
    for row in frame[frame.step > 0].to_dict("records"):
        assert (row[f"budget_{preset}"], row[f"at_{preset}"]) == expected[raw[row["step"], row["layer"]]]
    assert {at for _, at in expected.values()} == {*frame[f"at_{preset}"].dropna()}


def test_reads(frame: pd.DataFrame) -> None:
    walks = frame[frame.task == "glyph_walk"]
    first, second = {1, 6, 11}, {4, 9}
    assert (walks.reads == walks.step.map(lambda t: 1 if t in first else 2 if t in second else 0)).all()
    assert {*walks.reads} == {0, 1, 2}
    lookups = frame[frame.task == "glyph_lookup"]
    assert (lookups.reads == (lookups.step == 0)).all()


def test_layer() -> None:
    assert anchor(ask(), 36) == 17 and anchor(ask(layer=1), 4) == 1


def test_correlations_are_pearsons(frame: pd.DataFrame) -> None:
    found = correlations(frame)
    for layer, own in frame.groupby("layer"):
        for delta in (0.0005, 0.001, 0.0015, 0.002):
            r = np.corrcoef(own.mass, own[f"active_{delta}"])[0, 1]
            assert found.loc[layer, f"active_{delta}"] == pytest.approx(r)


def made(**changes: object) -> pd.DataFrame:
    """200 steps in 2 layers: mass is that of few active tokens; those of a higher mass read, and are at the cap."""
    rng = np.random.default_rng(0)
    own = pd.DataFrame({"model": "m", "task": "t", "id": "1", "step": 1 + np.arange(200), "position": rng.random(200)})
    own = own.assign(visual_tokens=100, watched=True, layer=1, mass=np.arange(200) / 200)
    for delta in (0.0005, 0.001, 0.0015, 0.002):
        own[f"active_{delta}"] = (40 * own.mass).round() + rng.integers(0, 4, 200)
    own["reads"] = np.where(own.mass > 0.7, 1.0, 0.0)
    for preset, low, high in (("10", 0.05, 0.1), ("5", 0.01, 0.05)):
        own[f"budget_{preset}"] = np.where(own.mass > 0.7, high, low)
        own[f"at_{preset}"] = np.where(own.mass > 0.7, "cap", "floor")
    own = own.assign(**changes)
    return pd.concat([own, own.assign(layer=0, watched=False, mass=rng.random(200))])


def test_findings_hold() -> None:
    correlation, reading, ten, five, sparse = findings(made())
    assert all(found.holds for found in (correlation, reading, ten, five, sparse))
    assert "layer 1 over 200 steps" in correlation.numbers and "best other layer, 0" in correlation.numbers
    assert "0.850 at 59 decode steps" in reading.numbers
    assert (
        ten.numbers
        == "cap 30 %, floor 70 % of 200 steps, mean 6.5 % or 6.5 tokens; 100 % of those at the cap read a cell"
    )
    assert "mean 2.2 % or 2.2 tokens" in five.numbers


def test_findings_can_fail() -> None:
    held = made().iloc[:200]
    weak = findings(made(**{"active_0.0015": held["active_0.0015"].to_numpy()[::-1]}))
    assert [found.holds for found in weak] == [False, True, True, True, True]
    same = findings(made(reads=np.arange(200) % 2))
    assert [found.holds for found in same] == [True, False, True, True, True]
    lower = findings(made(reads=np.arange(200) < 60))  # the mass of those that read is lower
    assert [found.holds for found in lower] == [True, False, True, True, True]
    stuck = findings(made(at_5=np.where(np.arange(200) < 185, "floor", "cap")))
    assert [found.holds for found in stuck] == [True, True, True, False, True]
    dense = findings(made(**{"active_0.0005": held["active_0.0005"] + 50}))
    assert [found.holds for found in dense] == [True, True, True, True, False]


def test_steps_that_read_are_not_known_and_prefill_does_not_count() -> None:
    assert findings(made(reads=np.nan))[1].holds is None
    assert findings(made(step=0))[1].holds is None


def test_figure_from_the_file(frame: pd.DataFrame) -> None:
    read = pd.read_csv(io.StringIO(frame.to_csv(index=False)))
    figure = draw(pd.concat([read, read.assign(model="other")]))
    assert len(figure.axes) == 6
    assert [len(axes.lines) for axes in figure.axes[:4]] == [2, 2, 2, 4]
