"""Yes/no replies and POPE's numbers."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from harness.benchmarks.base import Item
from harness.benchmarks.scoring import METRICS, Measure, Scored, Verdict, score
from harness.benchmarks.scoring.verdict import unjudged
from tests.benchmarks.installed import lmms
from tests.benchmarks.test_letters import Judge

theirs = lmms("pope/utils.py")


def item(label: str = "yes", category: str = "random", name: str = "q") -> Item:
    return Item(name, (), label, "", category, meta={"question": "Is there a dog?"})


@pytest.mark.parametrize(
    ("reply", "llava", "lmms_eval", "kit", "lenient"),
    [
        ("Yes", "yes", "yes", "yes", "yes"),
        ("no", "no", "no", "no", "no"),
        ("Yes.", "yes", None, "yes", "yes"),  # lmms-eval counts it as wrong
        ("NO", "yes", "no", "no", "no"),
        (" yes \n", "yes", "yes", "yes", "yes"),
        ("No, there is not.", "no", None, "no", "no"),
        ("Yes, there is no doubt.", "no", None, None, "yes"),
        ("Well. No", "yes", None, "no", "no"),
        ("There is no dog.", "no", None, "no", "no"),
        ("There isn't a dog.", "yes", None, None, "no"),
        ("There is a dog.", "yes", None, None, "yes"),
        ("It cannot be seen, not at all.", "no", None, None, "no"),
        ("Yes or no? The answer is **no**.", "yes", None, None, "no"),
        (r"Yes? \boxed{\text{No}}", "yes", None, None, "no"),
        ("I think yes and no", "no", None, None, None),
        ("Yes or no?", "yes", None, None, None),
        ("Yes or no? No", "no", None, None, "no"),
        ("I'm not able to answer this", "no", None, None, None),
        ("It is not possible to tell", "no", None, None, None),
        ("Not sure", "yes", None, None, None),
        ("I cannot tell", "yes", None, None, None),
        ("I can't see the image.", "yes", None, None, None),
        ("I don't see a dog.", "yes", None, None, "no"),
        ("There's no way to tell", "no", None, "no", None),
        ("I'm not sure, but yes", "no", None, "yes", "yes"),
        ("No, I cannot tell", "no", None, "no", "no"),
        ("A snowboard", "yes", None, None, None),
        ("", "yes", None, None, None),
    ],
)
def test_what_is_read(
    reply: str, llava: str, lmms_eval: str | None, kit: str | None, lenient: str | None
) -> None:  # fmt: skip
    for rule, said in (
        ("pope.llava", llava), ("pope.lmms", lmms_eval), ("yesno.vlmevalkit", kit), ("yesno.lenient", lenient)
    ):  # fmt: skip
        for label in ("yes", "no"):
            verdict = score(rule, item(label), reply)
            assert verdict == Verdict(said == label, float(said == label), said, rule, said is None)


def test_judge_is_asked_ever_hotter() -> None:
    judge = Judge("Unknown", "hm", "Yes")
    verdict = score("yesno.vlmevalkit", item(), "A snowboard", judge)
    assert verdict.correct and [temperature for _, temperature in judge.asked] == [0.0, 0.5, 1.0]
    assert all("Is there a dog?" in prompt and "A snowboard" in prompt for prompt, _ in judge.asked)
    stubborn = Judge(*["Unknown"] * 5)
    assert score("yesno.vlmevalkit", item(), "A snowboard", stubborn).unparsed and len(stubborn.asked) == 5
    untouched = Judge()
    assert score("yesno.vlmevalkit", item(), "yes", untouched).correct and not untouched.asked


def samples(rows: Iterable[tuple[str, str, str]], rule: str = "pope.lmms") -> list[Scored]:
    """Of (category, label, reply)."""
    items = [(item(label, category, str(i)), reply) for i, (category, label, reply) in enumerate(rows)]
    return [Scored(one, score(rule, one, reply)) for one, reply in items]


ROWS = [
    *[("adversarial", "yes", "yes")] * 5, *[("adversarial", "yes", "no")] * 3, *[("adversarial", "no", "yes")] * 2,
    *[("popular", "yes", "yes")] * 4, *[("popular", "no", "no")] * 4, *[("popular", "no", "yes")] * 1,
    *[("random", "yes", "yes")] * 2, *[("random", "no", "no")] * 6,
]  # fmt: skip
UNREAD = [*ROWS, ("random", "yes", "Yes."), ("random", "yes", "well"), ("popular", "no", "No.")]


@pytest.mark.parametrize("rows", [ROWS, UNREAD, ROWS[:1], ROWS[5:8]])
def test_pooled_numbers_are_those_of_lmms_eval(rows: list[tuple[str, str, str]]) -> None:
    results = [
        theirs.pope_process_results({"answer": label, "question_id": 0}, [reply])["pope_f1_score"]
        for _, label, reply in rows
    ]
    mine = samples(rows)
    assert METRICS["pope.lmms_pooled"](mine).value == pytest.approx(theirs.pope_aggregate_f1_score(results))
    assert METRICS["pope.accuracy"](mine).value == pytest.approx(theirs.pope_aggregate_accuracy(results))
    assert METRICS["pope.precision"](mine).value == pytest.approx(theirs.pope_aggregate_precision(results))


def test_unread_replies_are_misses() -> None:
    """lmms-eval leaves them out of the recall, so that a model gains by not answering."""
    mine = samples(UNREAD)
    assert METRICS["pope.recall"](mine).value == pytest.approx(11 / 16)
    assert METRICS["pope.accuracy"](mine).value == pytest.approx(21 / 30)
    f1 = 2 * (11 / 14) * (11 / 16) / (11 / 14 + 11 / 16)
    assert METRICS["pope.lmms_pooled"](mine).note.startswith("2 unparsed replies")
    assert f"{f1:.4f}" in METRICS["pope.lmms_pooled"](mine).note
    assert METRICS["pope.lmms_pooled"](samples(ROWS)).note == ""


def test_unknown_is_a_miss_in_vlmevalkit() -> None:
    """There Unknown is wrong (protocols.md 1.6): half of 50 labels yes found and nothing else said is 2/3."""
    rows = [("random", "yes", "Yes.")] * 25 + [("random", "yes", "A dog")] * 25 + [("random", "no", "no")] * 50
    mine = samples(rows, "yesno.vlmevalkit")
    assert METRICS["pope.vlmevalkit"](mine) == Measure(pytest.approx(2 / 3), 100)
    assert METRICS["pope.lmms_pooled"](mine).value == 1.0
    false_yes = samples([*rows, ("random", "no", "Yes")], "yesno.vlmevalkit")
    assert METRICS["pope.vlmevalkit"](false_yes).value == pytest.approx(2 * 25 / (50 + 26))


def test_mean_of_three_is_not_the_pooled_number() -> None:
    adversarial, popular, random = 2 * 5 / (7 + 8), 2 * 4 / (5 + 4), 1.0
    measure = METRICS["pope.llava_mean_f1"](samples(ROWS))
    assert measure.value == pytest.approx((adversarial + popular + random) / 3) and measure.n == len(ROWS)
    assert measure.note == "rows: adversarial 10, popular 9, random 8"
    assert METRICS["pope.lmms_pooled"](samples(ROWS)).value == pytest.approx(2 * 11 / (14 + 14))
    part = METRICS["pope.llava_mean_f1"](samples(ROWS[:10]))
    assert part.value == pytest.approx(adversarial) and "popular missing" in part.note


def test_yes_ratio_is_that_of_the_replies() -> None:
    """lmms-eval takes it of the labels."""
    always = samples([("random", label, "yes") for label in ("yes", "no", "no", "no")])
    assert METRICS["pope.yes_ratio"](always).value == 1.0
    assert METRICS["pope.yes_ratio"](samples(UNREAD)).value == pytest.approx(14 / 30)


def test_without_verdicts_there_is_no_number() -> None:
    open_ = [Scored(item(), unjudged("yesno.vlmevalkit"))] * 2
    for name in METRICS:
        if name.startswith("pope."):
            assert METRICS[name]([]).value is None
            measure = METRICS[name]([*open_, *samples([("random", "yes", "yes")])])
            assert (measure.value, measure.n) == (1.0, 1) and "2 of 3 samples are unjudged" in measure.note
