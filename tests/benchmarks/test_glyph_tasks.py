"""The glyph benchmarks: frozen content, evidence, scores."""

from __future__ import annotations

import random

import numpy as np
import pytest

from harness.benchmarks import glyphs
from harness.benchmarks.glyph_tasks import LENGTHS, Glyphs
from harness.benchmarks.scoring import score


@pytest.mark.parametrize(
    ("task", "hashed"),
    [
        ("walk", "487a6ae94b21c0966e51123016323b85c477ee826e29e92cf8a4cc4a828411bb"),
        ("lookup", "6265ceb79fa307d83260a8ade8dd9b76625b8e7e3ba72720836f6b5a2686b927"),
    ],
)
def test_content_is_frozen(task, hashed):
    """If this fails, numbers made before cannot be compared with new ones: do not change the literal lightly."""
    assert Glyphs(task=task, size=8).content_hash() == hashed


def test_content_follows_its_parameters():
    hashes = {
        Glyphs(task=task, seed=seed, size=8, cell_pixels=pixels).content_hash()
        for task in ("lookup", "walk") for seed in (0, 1) for pixels in (16, 32)
    }  # fmt: skip
    assert len(hashes) == 8


def test_items_are_drawn_lazily_and_always_the_same():
    items = Glyphs(task="walk").items()
    assert len(items) == 1000
    assert items[-1].id == "00999" and [item.id for item in items[2:4]] == ["00002", "00003"]
    first, again = items[5], items[5]
    assert np.array_equal(np.asarray(first.content[0]), np.asarray(again.content[0]))
    with pytest.raises(IndexError):
        items[1000]


def test_categories_alternate():
    walks, lookups = Glyphs(task="walk").items(), Glyphs(task="lookup").items()
    assert [walks[i].category for i in range(6)] == [f"steps-{n}" for n in LENGTHS]
    assert [lookups[i].category for i in range(4)] == ["position", "colour"] * 2
    assert {item.category for item in Glyphs(task="lookup", by="colour").items()[:9]} == {"colour"}


def test_pictures_are_not_those_of_training():
    drawn = {Glyphs(task="walk").draw(i).grid for i in range(200)}
    assert len(drawn) == 200
    unseen = random.Random("unseen/walk")
    assert not drawn & {glyphs.walk(unseen, unseen.randint(3, 8)).grid for _ in range(200)}


def test_needed_boxes_hold_the_evidence():
    benchmark = Glyphs(task="walk", cell_pixels=32)
    item, task = benchmark.items()[0], benchmark.draw(0)
    picture = np.asarray(item.content[0])
    assert picture.shape == (256, 256, 3) and len(item.needed) == len(task.needed) == 4
    for box, (row, column) in zip(item.needed, task.needed, strict=True):
        top, left, bottom, right = (round(256 * x) for x in (box.top, box.left, box.bottom, box.right))
        assert (top, left, bottom - top, right - left) == (32 * row, 32 * column, 32, 32)
        border = glyphs.COLOURS[task.grid.read((row, column), "colour")]
        assert (picture[top, left:right] == border).all()


@pytest.mark.parametrize(
    ("reply", "parsed"),
    [
        ("c3 4 = 4 up c2 2 = 6 answer 6", "6"),
        ("answer 3 or answer: 06.", "6"),
        ("answer", None),
        ("6", None),
        ("", None),
    ],
)
def test_the_last_answer_of_a_walk_counts(reply, parsed):
    benchmark = Glyphs(task="walk")
    item = benchmark.items()[0]
    rule = benchmark.scoring.rule
    assert score(rule, item, reply).extracted == parsed
    assert score(rule, item, item.meta["reply"]).correct


@pytest.mark.parametrize(
    ("answer", "reply", "credit"),
    [("4", " 4.", 1), ("red", "Red", 1), ("4", "4 pips", 0), ("4", "14", 0), ("left", "", 0), ("left", ".", 0)],
)
def test_a_lookup_must_be_the_whole_reply(answer, reply, credit):
    from dataclasses import replace

    benchmark = Glyphs(task="lookup")
    verdict = score(benchmark.scoring.rule, replace(benchmark.items()[0], answer=answer), reply)
    assert verdict.value == credit
    assert verdict.unparsed == (verdict.extracted is None) == (reply in ("", "."))


def test_bad_parameters():
    with pytest.raises(ValueError, match="size must be at least 1"):
        Glyphs(task="walk", size=0)
    with pytest.raises(ValueError, match="cell_pixels must be a multiple of 16"):
        Glyphs(task="walk", cell_pixels=24)


def test_evidence_is_asked_where_a_cell_is_read():
    """A walk needs its k-th cell for the pips and the arrow after the k-th place name, a look-up its cell at once."""
    benchmark = Glyphs(task="walk")
    item = benchmark.items()[0]
    text = item.meta["reply"]
    cells = len(item.needed)
    names = [text.index(f" = {total} ") for total in (3, 7, 10)]
    assert benchmark.evidence(item, text, [(0, [1.0] * cells)]) == 1
    assert benchmark.evidence(item, text, []) is None
    # Readable until the second cell's pips are written, gone for its arrow and all later cells.
    runs = [(0, [1.0] * cells), (names[1], [0.0] * cells)]
    assert benchmark.evidence(item, text, runs) == (1 + 0.5) / cells
    only_first = [(0, [1.0] + [0.0] * (cells - 1))]
    assert benchmark.evidence(item, text, only_first) == 1 / cells
    assert benchmark.evidence(item, "", [(0, [0.25] * cells)]) == 0.25
    lookup = Glyphs(task="lookup", by="position")
    assert lookup.evidence(lookup.items()[0], "red", [(0, [0.5]), (1, [1.0])]) == 0.5


def test_options_of_the_world():
    """Other words, distractions, two pictures and longer walks change the question, never the way to its answer."""
    plain = Glyphs(task="walk").draw(4)
    free, distracted = Glyphs(task="walk", free=True).draw(4), Glyphs(task="walk", distractors=True).draw(4)
    assert free.question != plain.question and free.needed[0] == plain.needed[0] and "7" in free.question
    assert distracted.question.endswith(plain.question) and distracted.reply == plain.reply
    long = Glyphs(task="walk", lengths=(12, 16))
    assert [long.item(i).category for i in range(3)] == ["steps-12", "steps-16", "steps-12"]
    assert len(set(long.draw(1).needed)) == 17
    hashes = {
        Glyphs(task="lookup", size=8, **option).content_hash()
        for option in ({}, {"free": True}, {"distractors": True}, {"pictures": 2})
    }
    assert len(hashes) == 4


def test_two_pictures():
    """The question says which picture it is about, and the evidence lies in that one."""
    benchmark, seen = Glyphs(task="lookup", by="position", pictures=2), set()
    for i in range(20):
        task, item = benchmark.draw(i), benchmark.item(i)
        k = task.grids.index(task.grid)
        assert f"in the {('first', 'second')[k]} picture, " in task.question
        assert [box.picture for box in item.needed] == [k] and len(item.content) == 3
        assert np.array_equal(np.asarray(item.content[k]), glyphs.render(task.grid))
        seen.add(k)
    assert seen == {0, 1}


@pytest.mark.parametrize("option", [{"pictures": 3}, {"lengths": []}, {"lengths": [0]}, {"lengths": [25]}])
def test_bad_options(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        Glyphs(task="walk", **option)
