"""Rules that take the grade of a judge: MM-Vet, MIA-Bench, CharXiv."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.benchmarks.scoring import score
from harness.benchmarks.scoring.verdict import unjudged
from tests.benchmarks.installed import lmms_functions
from tests.benchmarks.test_image_rules import Judge, item

(total_theirs,) = lmms_functions("mia_bench/utils.py", "process_rawscore")


def test_mmvet_takes_the_grade_of_a_judge() -> None:
    asked = item("3<AND>4", capabilities=["math"])
    judge = Judge("0.5")
    verdict = score("mmvet.official", asked, "3", judge)
    assert (verdict.value, verdict.correct) == (0.5, False) and "What? | 3 <AND> 4 | 3 |" in judge.asked[0][0]
    assert score("mmvet.official", asked, "3 and 4", Judge("1.0 because")).correct
    hotter = Judge("good", "1.5", "0.9")
    assert score("mmvet.official", asked, "3", hotter).value == 0.9
    assert [temperature for _, temperature in hotter.asked] == [0.0, 0.5, 1.0]
    assert score("mmvet.official", asked, "3", Judge("good")).value == 0.0
    assert score("mmvet.official", asked, "3").correct is None
    lenient = {reply: score("mmvet.lenient", asked, reply).value for reply in ("3", "4 and 3", "34", "")}
    assert lenient == {"3": 0, "4 and 3": 1, "34": 0, "": 0}
    assert score("mmvet.lenient", item("a cat<OR>a dog"), "That is a dog.").correct


SENTENCE = "score of component 1: {}/4, score of component 2: {}/6, total score: {}/10. It rhymes."


@given(st.integers(0, 4), st.integers(0, 6), st.booleans())
def test_mia_bench_takes_the_total_of_a_judge(first: int, second: int, total: bool) -> None:
    asked = item("x", components=["rhyme", "six lines"], weights=[4, 6])
    said = SENTENCE.format(first, second, first + second)
    said = said if total else said.replace("total score", "sum")
    judge = Judge(said)
    found = score("mia_bench.lmms", asked, "Roses", judge)
    assert found.value == pytest.approx(total_theirs(["rhyme", "six lines"], said)["total_score"])
    assert "1. (4 points) rhyme\n2. (6 points) six lines\nResponse: Roses" in judge.asked[0][0]
    kit = score("mia_bench.vlmevalkit", asked, "Roses", judge)
    assert kit.value == ((first + second) / 10 if total else None)


def test_mia_bench_without_a_judge_or_a_score() -> None:
    asked = item("x", components=["rhyme"], weights=[10])
    for rule in ("mia_bench.vlmevalkit", "mia_bench.lmms"):
        assert score(rule, asked, "Roses").correct is None
    assert score("mia_bench.vlmevalkit", asked, "Roses", Judge("fine")).correct is None
    assert score("mia_bench.lmms", asked, "Roses", Judge("fine")).value == 0.0
    assert score("none.lenient", asked, "Roses") == unjudged("none.lenient")


@pytest.mark.parametrize(
    ("said", "kit", "lmms_eval"),
    [
        ('{"extracted_answer": "b", "score": 1}', True, True),
        ('```json\n{"extract_answer": "b", "score": 1}\n```', True, True),
        ('{"extracted_answer": "c", "score": 0}', False, False), ('{"extracted_answer": "b"}', False, None),
        ('{"extracted_answer": "b", "score": 7}', False, None), ("1", False, None), ("", False, None),
        ("[1]", False, None),
    ],
)  # fmt: skip
def test_charxiv_reads_the_json_of_a_judge(said: str, kit: bool, lmms_eval: bool | None) -> None:
    for kind, words in ((1, "the same terms"), (2, "the very option"), (3, "same number"), (4, "same number")):
        asked, judge = item("(b)", type=kind), Judge(said)
        assert score("charxiv.vlmevalkit", asked, "b", judge).correct is kit
        assert score("charxiv.lmms", asked, "b", judge).correct is lmms_eval
        assert words in judge.asked[0][0] and "Ground truth: (b)\nResponse: b" in judge.asked[0][0]
    assert score("charxiv.vlmevalkit", asked, "b").correct is score("charxiv.lmms", asked, "b").correct is None
