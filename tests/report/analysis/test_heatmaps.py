"""Maps of a reply: which steps read which cell, overlap and hits counted by hand, which reply is drawn."""

from __future__ import annotations

import io
from typing import Any

import pandas as pd
import pytest

from harness.report.analysis import heatmaps
from harness.report.analysis.heatmaps import draw, findings, measure, readings
from tests.report.analysis.made import WALK, ask, reply, stored


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        (WALK, {1: (0, 1), 4: (0, 2), 6: (1, 1), 9: (1, 2), 11: (2, 1)}),
        (" c3 4 = 4 up c2", {1: (0, 1), 4: (0, 2)}),  # cut off
        (" c3 4 = 4 up c2 5 = 9 left b2 1 = 10 up b1 2 = 12 answer 12",  # more cells than are needed
         {1: (0, 1), 4: (0, 2), 6: (1, 1), 9: (1, 2), 11: (2, 1), 14: (2, 2)}),
    ],
)  # fmt: skip
def test_readings_of_walks(text: str, steps: dict[int, tuple[int, int]]) -> None:
    assert readings(reply(text)) == steps


def test_readings_of_others() -> None:
    assert readings(reply(" 4", task="glyph_lookup by=position", needed=[[5]])) == {0: (0, 1)}
    assert readings(reply(needed=[])) is None
    assert readings(reply(steps=40)) is None  # tokens are no words


def parts(monkeypatch: pytest.MonkeyPatch, *replies: Any) -> dict[str, pd.DataFrame]:
    stored(monkeypatch, heatmaps, *replies)
    frame = pd.read_csv(io.StringIO(measure(ask()).to_csv(index=False)))
    return {"all": frame, **{str(name): own for name, own in frame.groupby("part")}}


def test_overlap_and_hits(monkeypatch: pytest.MonkeyPatch) -> None:
    """k is 2 of 26 tokens; step 1 shares one with the prefill, step 2 none, step 3 both."""
    top = [[[3, 4, 5], [0.5, 0.4, 0.1]], [[4, 9, 3], [0.9, 0.05, 0]], [[5, 6, 3], [1, 0, 0]], [[4, 3, 0], [1, 0, 0]]]
    own = reply(" c3 4 =", top=top, needed=[[9, 10]], tokens=26)
    found = parts(monkeypatch, own, reply(" c3 4 =", id="2", top=top, needed=[[5]], tokens=26, credit=0.0))
    first, second = found["reply"].to_dict("records")
    assert (first["k"], first["overlap"], first["correct"], second["correct"]) == (2, pytest.approx(0.5), 1, 0)
    (read,) = found["reading"].to_dict("records")  # of the right reply alone
    assert (read["step"], read["number"], read["nth"], read["hit"], read["hit_prefill"]) == (1, 0, 1, True, False)


def test_the_longest_right_reply_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    longer = WALK.replace(" answer", " up b1 2 = 12 answer")
    found = parts(monkeypatch, reply(id="1"), reply(id="2"), reply(longer, id="3", credit=0.0), reply(" 3", id="4"))
    assert {*found["map"].id} == {*found["curve"].id} == {1}
    steps = found["map"].drop_duplicates("step")
    assert steps.step.tolist() == [0, 1, 6, 11] and steps.word.tolist() == ["c3", "4", "5", "1"]
    needed = found["map"][found["map"].needed.astype(bool)]
    assert dict(zip(needed.step, needed.token, strict=True)) == {0: 18, 1: 18, 6: 10, 11: 9}
    assert (needed.top.iloc[0], needed.left.iloc[0], needed.bottom.iloc[0]) == (0.25, 0.25, 0.375)


def test_map_and_curve_are_of_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    own = reply()
    found = parts(monkeypatch, own)
    for step, part in found["map"].groupby("step"):
        tokens, weights = own.record["top"][int(step)]
        assert len(part) == 64 and (part.attention > 0).sum() == 16
        at = part.set_index("token").attention
        assert at[tokens].tolist() == pytest.approx(weights)
    similarity = own.measure("similarity")[:, 2]
    assert found["curve"].similarity.tolist() == pytest.approx(similarity.tolist())
    dips = {
        t for t in range(2, len(similarity) - 1)
        if similarity[t] < 0.7 and similarity[t - 1] > similarity[t] < similarity[t + 1]
    }  # fmt: skip
    events = found["curve"][found["curve"].event.astype(bool)]
    assert dips and {*events.step} == dips


def test_replies_of_other_worlds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known to be needed, two pictures, a newline token, and tokens that are no words."""
    boxes = [[i // 8, 0.0, i % 8 / 8, 1.0, (i % 8 + 1) / 8] for i in range(15)] + [None]
    own = reply("A cat.", tokens=16, steps=30, boxes=boxes, needed=[], task="pope")
    found = parts(monkeypatch, own)
    assert "reading" not in found and found["map"].word.isna().all() and not found["map"].needed.astype(bool).any()
    assert {*found["map"].token} == set(range(15)) and {*found["map"].picture} == {0, 1}
    assert sorted({*found["map"].step}) == [0, 1, 8, 15, 22, 29]
    assert [finding.holds for finding in findings(found["all"])] == [True]
    assert draw(found["all"]).axes


def made(overlap: float, hit: int, prefill: int) -> pd.DataFrame:
    """20 replies, and 20 readings of which so many hit; readings at the prefill do not count."""
    common = {"model": "m", "task": "t", "id": "1", "visual_tokens": 64, "k": 7}
    rows: list[dict[str, Any]] = [common | {"part": "reply", "overlap": overlap} for _ in range(20)]
    for i in range(20):
        looks = {"hit": i < hit, "hit_prefill": i < prefill}
        rows.append(common | {"part": "reading", "step": 1, "number": i % 4, "nth": 1} | looks)
        rows.append(common | {"part": "reading", "step": 0, "number": 0, "nth": 1, "hit": False, "hit_prefill": True})
    rows.append(common | {"part": "reading", "step": 4, "number": 0, "nth": 2, "hit": False, "hit_prefill": True})
    return pd.DataFrame(rows)


def test_findings() -> None:
    elsewhere, needed = findings(made(0.2, hit=18, prefill=3))
    assert elsewhere.holds and needed.holds
    assert "20 % of the top 7 tokens" in elsewhere.numbers and "by chance 11 %" in elsewhere.numbers
    assert "at 90 % of 20 steps" in needed.numbers and "the prefill's for 15 %" in needed.numbers
    assert needed.numbers.endswith("; 0 % where it writes a second thing read off the same cell")
    assert [found.holds for found in findings(made(0.6, hit=18, prefill=12))] == [False, False]
    assert [found.holds for found in findings(made(0.2, hit=8, prefill=3))] == [True, False]


def test_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    found = parts(monkeypatch, reply(), reply(model="other", id="2"))
    figure = draw(found["all"])
    assert len(figure.axes) == 2 * 4 + 2 + 2  # maps, curves, and two for all replies
    titles = [axes.get_title() for axes in figure.axes]
    assert titles.count("prefill") == 2 and 'step 6, "5"' in titles
    outlined = [p for p in figure.axes[0].patches if p.get_linewidth() > 1]
    assert [p.get_xy() for p in outlined] == [(0.25, 0.25)]
