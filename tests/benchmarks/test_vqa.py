"""Short answers: normalisation, soft accuracy, equality."""

from __future__ import annotations

import statistics
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.benchmarks.base import Item
from harness.benchmarks.scoring import score
from harness.benchmarks.scoring.vqa import CONTRACTIONS, NUMBERS, evalai_normal, kit_normal, soft
from tests.benchmarks.installed import lmms

theirs = lmms("_task_utils/vqa_eval_metric.py").EvalAIAnswerProcessor
CAMERA = ["nous les gosses", "dakota", "clos culombu", "dakota digital", "dakota", "dakota", "dakota digital"]
CAMERA += ["dakota digital", "dakota", "dakota"]


def item(*references: str) -> Item:
    return Item("q", (), references[0], "", meta={"answers": list(references)})


def test_word_lists_are_those_of_the_source() -> None:
    table = {key: word for key, word in theirs.CONTRACTIONS.items() if key == key.lower() and key != word}
    assert table == CONTRACTIONS and {**theirs.NUMBER_MAP} | NUMBERS == NUMBERS


PIECES = st.sampled_from(
    [
        "1,000",
        "3.5",
        "A",
        "the",
        "an",
        "two",
        "none",
        "Tom's",
        "dont",
        "somebody'd",
        "...",
        "U.S.",
        " - ",
        "/",
        "(x)",
        "?",
    ]
)


@given(st.lists(PIECES | st.text("aA1.,'?!-/ \n\t()=", max_size=8), max_size=10))
def test_normalisation_is_that_of_evalai(parts: list[str]) -> None:
    text = " ".join(parts)
    assert evalai_normal(text) == theirs()(text)


@pytest.mark.parametrize(
    ("text", "evalai", "kit"),
    [
        ("The Cat's hat", "cat s hat", "cat's hat"), ("1,000", "1000", "1000"), ("x,y", "xy", "x y"),
        ("Two dogs!", "2 dogs", "2 dogs"), ("it is 3.5.", "it is 3.5", "it is 3.5"), ("x-y", "x y", "x y"),
        ("x- y", "x y", "x y"), ("dont", "don't", "don't"), ("what?no", "whatno", "what no"),
    ],
)  # fmt: skip
def test_normalisations(text: str, evalai: str, kit: str) -> None:
    assert (evalai_normal(text), kit_normal(text)) == (evalai.replace("cat s", "cat 's"), kit)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12), st.sampled_from("abcd"))
def test_soft_accuracy_is_the_mean_over_leaving_one_out(references: list[str], said: str) -> None:
    brute = [
        min(1.0, sum(other == said for j, other in enumerate(references) if j != i) / 3) for i in range(len(references))
    ]
    assert soft(said, references) == pytest.approx(statistics.mean(brute))


@pytest.mark.parametrize(
    ("reply", "official", "lenient"),
    [
        ("Dakota digital", 0.9, 0.9), ("dakota", 1.0, 1.0), ("Dakota.", 1.0, 1.0), ("Kodak", 0.0, 0.0), ("", 0.0, 0.0),
        ("It is a Dakota Digital camera", 0.0, 0.9), ("The answer is: dakota", 0.0, 1.0), (r"\boxed{Dakota}", 0.0, 1.0),
        ("<answer>dakota</answer>", 0.0, 1.0), ("dakota or clos culombu", 0.0, 0.0), ("Dakotas", 0.0, 0.0),
        ("I first thought of a dakota digital one because of its shape. The answer is Kodak.", 0.0, 0.0),
        ("There are many brands of such cameras, dakota being one that I would name if I had to", 0.0, 0.0),
    ],
)  # fmt: skip
def test_textvqa(reply: str, official: float, lenient: float) -> None:
    for rule in ("textvqa.lmms", "textvqa.llava", "vqa.vlmevalkit"):
        verdict = score(rule, item(*CAMERA), reply)
        assert verdict.value == pytest.approx(official) and verdict.correct == (official == 1.0)
        assert verdict.unparsed == (reply == "")
    assert score("vqa.lenient", item(*CAMERA), reply).value == pytest.approx(lenient)


@pytest.mark.parametrize(
    ("reply", "llava", "lmms_eval", "kit", "lenient"),
    [
        ("left", 1, 1, 1, 1), ("Left.", 1, 1, 0, 1), (" left", 0, 1, 1, 1), ("Left", 1, 1, 1, 1), ("left!", 0, 1, 0, 1),
        ("the left", 0, 0, 0, 1), ("It is on the left side.", 0, 0, 0, 1), ("The answer is left", 0, 0, 0, 1),
        ("right", 0, 0, 0, 0), ("leftover", 0, 0, 0, 0), ("", 0, 0, 0, 0),
    ],
)  # fmt: skip
def test_gqa(reply: str, llava: int, lmms_eval: int, kit: int, lenient: int) -> None:
    rules = ("gqa.llava", "gqa.lmms", "gqa.vlmevalkit", "gqa.lenient")
    verdicts = [score(rule, item("left"), reply) for rule in rules]
    assert [verdict.value for verdict in verdicts] == [llava, lmms_eval, kit, lenient]
    assert all(verdict.unparsed == (reply == "") for verdict in verdicts)


@pytest.mark.parametrize("loop", ["answer is ", "<answer>", "\\boxed{", " ", ".", "1,0 ", "'", "left "])
def test_replies_that_repeat_themselves_take_no_time(loop: str) -> None:
    start = time.process_time()
    for rule in (
        "textvqa.lmms",
        "vqa.vlmevalkit",
        "vqa.lenient",
        "gqa.lenient",
        "gqa.lmms",
        "yesno.lenient",
        "pope.llava",
    ):
        score(rule, item(*["left"] * 10), loop * 20_000)
    assert time.process_time() - start < 1.5
