"""Letters of multiple choice: what each rule reads, and what lmms-eval reads wrong."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.benchmarks.base import Item
from harness.benchmarks.scoring import METRICS, Scored, mmmu, score
from harness.benchmarks.scoring.lenient import read_letter
from harness.benchmarks.scoring.mcq_kit import can_infer
from tests.benchmarks.installed import lmms, lmms_functions
from tests.benchmarks.predictions import PREDICTIONS, mmmu_pro

TEXTS = ["teddy bear", "rabbit", "cat", "dog"]
FORMS = [
    "B", "b", "(B)", "B.", " B\n", "**B**", "B. rabbit", "B) rabbit", "B: rabbit", "rabbit", "A rabbit.", "It is B",
    "Answer: B", "answer is b", "ANSWER: B", "**Answer:** B", "Answer:\n\nB", "Answer: option (B)", "My answer: (b)",
    "The correct answer is B", "The answer is **(B)**.", "The answer to the question is B.", "option B",
    "Option B: rabbit",
    "I would choose option B.", "So the answer must be (B).", "The best answer is option B, rabbit.",
    "(B) rabbit is the correct answer", "B is correct.", "The answer is a rabbit", "The answer is: $\\text{B}$",
    r"\boxed{B}", r"$\boxed{\text{B}}$", r"Final answer: \boxed{(B)}", "<answer>B</answer>",
    "<answer>\nB. rabbit\n</answer>",
    "A is wrong, C is wrong. The answer is B.", "First I think the answer is A. But no. The answer is B.",
    "We can eliminate A, C, and D. Hence B.", "It's neither A nor C; B is right", "It is not A but B.",
    "{'answer': 'B'}", '{"answer": "B"}', "Ans: B", "Ans. (B)", "Option b", "答案：B", "答案是B。",
    "Thus, it must be option B.", "So B",
    "The answer is B, not A.", "A isn't right and C is wrong, so B.", "It cannot be (A) or (C). Therefore **B**.",
    "Option A is wrong. It's (B).", "**A** and **D** can be ruled out: B is the best option", "not A. B is right",
    "Answer: B is not a pet.", "The answer is B is wrong",
    "Options A and C look alike.\n\nTherefore, the correct choice is **B. rabbit**.", "A. no\n" * 60 + "Answer: B",
]  # fmt: skip
NOTHING = [
    "", "A man is riding a horse", "I'm sorry, I can't help with that.", "None of these", "Answer: A or B", "A, B",
    "The answer is not B", "The answer cannot be B", "A. teddy bear\nB. rabbit\nC. cat\nD. dog", "a rabbit and a dog",
    "Answer: I don't know", "E", "Answer: F", "It is not A.", "B is incorrect.", "A is wrong",
    "Neither A nor B is correct.", "It's neither (A) nor (B).", "B isn't correct", "Options A and B are not right.",
    "We can rule out C.", "B is false", "It cannot be B.", "A and C can be eliminated",
    "So B is the midpoint of the side",
]  # fmt: skip


def item(answer: str = "B", options: list[str] = TEXTS, name: str = "q") -> Item:
    return Item(name, (), answer, "", meta={"options": options, "question": "What is it?"})


@pytest.mark.parametrize("reply", FORMS)
def test_lenient_reads_any_reasonable_form(reply: str) -> None:
    verdict = score("letter.lenient", item(), reply)
    assert (verdict.extracted, verdict.correct, verdict.unparsed) == ("B", True, False)


@pytest.mark.parametrize("reply", NOTHING)
def test_lenient_never_guesses(reply: str) -> None:
    verdict = score("letter.lenient", item(), reply)
    assert (verdict.extracted, verdict.value, verdict.unparsed) == (None, 0.0, True)


def test_an_article_or_pronoun_is_no_letter() -> None:
    ten = [f"thing {i}" for i in range(10)]
    assert read_letter("Answer: I", ten) == read_letter("The answer is I because it fits", ten) == "I"
    assert read_letter("I think the answer is C", ten) == "C" and read_letter("The answer is I'm not sure", ten) is None
    assert read_letter("A is a complete sentence.", TEXTS) == read_letter("The answer is A since it fits", TEXTS) == "A"
    assert read_letter("The answer is A cat", TEXTS) == "C"


def test_longer_options_shadow_their_parts() -> None:
    assert read_letter("It is dark red.", ["red", "dark red"]) == "B" and read_letter("2.5", ["2", "2.5", "25"]) == "B"


def test_a_denial_holds_wherever_it_stands() -> None:
    for more in range(150):
        assert read_letter("Neither A nor B is correct. " + "z" * more, TEXTS) is None


def test_an_option_that_says_not_is_no_denial() -> None:
    assert read_letter("The answer is A. not enough", ["not enough", "wrong"]) == "A"
    assert read_letter("B. wrong", ["not enough", "wrong"]) == "B"


def test_options_beyond_z_have_no_letters() -> None:
    many = [f"thing {i}" for i in range(40)]
    one = Item("q", (), "Z", "", meta={"options": many, "question": "What is it?"})
    rules = ("letter.lenient", "mmmu.official", "mmmu_pro.official", "mmmu_pro.lmms", "mcq.vlmevalkit")
    assert all(score(rule, one, "Answer: Z").correct for rule in rules)
    assert all(score(rule, one, "I do not know what this is about").correct in (True, False) for rule in rules)
    assert read_letter("It is thing 25", many) == "Z" and read_letter("It is thing 39", many) is None


def test_without_options_letters_go_to_j() -> None:
    assert [read_letter(f"Answer: {letter}") for letter in "AJK"] == ["A", "J", None]


@pytest.mark.parametrize(
    ("reply", "llava", "lmms_eval"),
    [
        ("B", "B", "B"), ("b", None, "B"), ("B. rabbit", "B", "B"), ("B.", None, "B"), ("(B)", None, None),
        ("The answer is B.", "B", None), ("The answer is A. The answer is B.", None, None), ("B rabbit", None, None),
        (" B", None, "B"), ("E", "E", "E"), ("", None, None),
    ],
)  # fmt: skip
def test_scienceqa(reply: str, llava: str | None, lmms_eval: str | None) -> None:
    assert score("scienceqa.llava", item(), reply).extracted == llava
    assert score("scienceqa.lmms", item(), reply).extracted == lmms_eval


def test_scienceqa_is_scored_as_lmms_eval_does() -> None:
    theirs = lmms("scienceqa/utils.py").sqa_process_results
    for reply in (*FORMS, *NOTHING, "B.x", "C", "c", "é."):
        doc = {"choices": TEXTS, "answer": 1}
        ours = score("scienceqa.lmms", item(), reply.strip()).value
        assert ours == theirs(doc, [reply.strip()])["exact_match"], reply


SIGNS = st.text("ABJ()., :*'\nabx", max_size=12)
lmms_parser = lmms("_task_utils/mmmu_mcq_utils.py")


@given(st.lists(SIGNS | st.sampled_from(["(B)", " C ", "D.", "rabbit", "teddy bear", "is", "the"]), max_size=12))
def test_parser_is_that_of_mmmu(parts: list[str]) -> None:
    """lmms-eval carries MMMU-Pro's parser up to "Answer:". Where it guesses, many calls give several letters."""
    reply, texts = " ".join(parts), dict(zip("ABCD", TEXTS, strict=True))
    theirs = {lmms_parser.parse_mmmu_multi_choice_response(reply, "ABCD", texts) for _ in range(40)}
    ours = mmmu.named(reply, TEXTS, mmmu.MMMU_PRO)
    assert len(theirs) > 1 if ours is None else theirs == {ours}


@pytest.mark.parametrize("rule", ["mmmu_pro.official", "mmmu_pro.lmms"])
@pytest.mark.parametrize("reply", ["Answer: B", "B.", "(B)", "A is not it.\n\n**Answer: B**", "Answer: (B)"])
def test_mmmu_pro_replies_are_parsed_in_all_sets(rule: str, reply: str) -> None:
    """lmms-eval does not read "Answer: B", and compares raw replies with the letter in the vision sets."""
    verdict = score(rule, item(), reply)
    assert (verdict.extracted, verdict.correct, verdict.unparsed) == ("B", True, False)


@pytest.mark.parametrize("rule", ["mmmu_pro.official", "mmmu_pro.lmms", "mmmu.official"])
def test_guesses_are_the_items_own_and_counted(rule: str) -> None:
    """lmms-eval guesses from the process's random numbers, so that threads and earlier samples change the letters."""
    items = [item("B", [f"text {i}" for i in range(10)], f"q{i}") for i in range(400)]
    before = random.getstate()
    alone = [score(rule, one, "no idea").extracted for one in items]
    with ThreadPoolExecutor(4) as pool:
        threads = [verdict.extracted for verdict in pool.map(lambda one: score(rule, one, "no idea"), reversed(items))]
    assert alone == threads[::-1] and random.getstate() == before
    assert set(alone) == set("ABCDEFGHIJ") and all(score(rule, one, "no idea").unparsed for one in items)
    assert 0.04 < sum(bool(score(rule, one, "no idea").correct) for one in items) / 400 < 0.18


@pytest.mark.parametrize(
    ("reply", "reference", "right"),
    [
        ("3.0", ["3"], True), ("The total is 1,200 dollars", ["1200"], True), ("x = 2e3", ["2000"], True),
        ("so the slope is 0.333", ["0.33"], True), ("Trans", ["trans-1"], False),
        ("a trans-1 isomer", ["trans-1"], True),
        ("It is MgS.", ["$MgS$", "MgS"], True), ("20,000,000", ["7243000"], False),
        ("D", ["A"], False), ("", ["3"], False),
    ],
)  # fmt: skip
def test_mmmu_open_questions(reply: str, reference: list[str], right: bool) -> None:
    verdict = score("mmmu.official", Item("q", (), reference[0], "", meta={"answers": reference}), reply)
    assert verdict.correct == right and verdict.unparsed == (not reply)


WORDS = st.sampled_from([
    "so", "is", "the", "answer", "result", "=", "3", "-2.50", "1e3", "2e-3", "1,200", "20,000,000", ".5", "7.", "x",
    "$6.75", "1/4", "MgS", "36", "\n", "0.10", "5e", "e",
])  # fmt: skip


@given(st.lists(WORDS | st.text("0159.,-eE =\n", max_size=6), max_size=10), WORDS)
def test_open_questions_are_read_as_lmms_eval_does(parts: list[str], reference: str) -> None:
    parse, right, *_ = lmms_open
    reply = " ".join(parts)
    assert set(mmmu.stated(reply)) == set(parse(reply))
    if reply.strip():
        item = Item("q", (), reference, "", meta={"answers": [reference]})
        assert score("mmmu.official", item, reply).correct == right(reference, parse(reply))


lmms_open = lmms_functions(
    "mmmu/utils.py", "parse_open_response", "eval_open", "extract_numbers", "check_is_number", "normalize_str"
)


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"), ("Answer: (B)", "B"), ("B one two three", "B"), ("B one two three four", None), ("A or B", None),
        ("the rabbit", "B"), ("rabbit or dog", None), ("a " * 30 + "rabbit", None), ("Z", "Z"), ("E", None),
        ("Cannot determine the answer", "Z"), ("Failed to obtain answer via API. B", None), ("*B*", "B"),
        ("The correct answer is **B** and not the others, as they are not that", "B"), ("The B of C ", None),
    ],
)  # fmt: skip
def test_what_vlmevalkit_infers(reply: str, letter: str | None) -> None:
    assert can_infer(reply, TEXTS) == letter


class Judge:
    """Answers from a list, and keeps what it was asked."""

    def __init__(self, *replies: str) -> None:
        self.replies, self.asked = list(replies), []

    def __call__(
        self, prompt: str, *, system: str | None = None, temperature: float = 0.0, max_tokens: int = 2048
    ) -> str:
        self.asked.append((prompt, temperature))
        return self.replies[len(self.asked) - 1]


UNCLEAR = "a furry thing with long ears that hops"


def test_vlmevalkit_asks_once() -> None:
    """Its three tries are the same question at temperature 0, which has one reply."""
    judge = Judge("The option is B", "C")
    verdict = score("mcq.vlmevalkit", item(), UNCLEAR, judge)
    assert (verdict.extracted, verdict.correct, verdict.unparsed) == ("B", True, False)
    [(prompt, temperature)] = judge.asked
    assert temperature == 0.0
    assert UNCLEAR in prompt and "A. teddy bear B. rabbit C. cat D. dog" in prompt and "What is it?" in prompt
    untouched = Judge()
    assert score("mcq.vlmevalkit", item(), "B", untouched).correct and not untouched.asked


def test_vlmevalkit_guesses_after_that_and_says_so() -> None:
    letters = set()
    for i in range(60):
        verdict = score("mcq.vlmevalkit", item(name=f"q{i}"), UNCLEAR, Judge("well"))
        assert verdict.unparsed and verdict == score("mcq.vlmevalkit", item(name=f"q{i}"), UNCLEAR, Judge(""))
        letters.add(verdict.extracted)
    assert letters == set("ABCDZ")


def test_vlmevalkit_without_a_judge_is_wrong() -> None:
    verdict = score("mcq.vlmevalkit", item(), UNCLEAR)
    assert (verdict.extracted, verdict.correct, verdict.unparsed) == ("Z", False, True)


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("A long A story.\nAnswer: B", "B"), ("Answer: A\nno\n Answer: (B) ", "B"), ("Answer: rabbit", "B"),
        ("Answer: A and B", "Z"), ("A story.\nanswer: B", "Z"), ("The rabbit", "B"),
    ],
)  # fmt: skip
def test_vlmevalkit_with_reasoning(reply: str, letter: str) -> None:
    verdict = score("mmmu_pro.vlmevalkit_cot", item(), reply)
    assert (verdict.extracted, verdict.rule) == (letter, "mmmu_pro.vlmevalkit_cot")


@pytest.mark.skipif(not PREDICTIONS.exists(), reason=f"no {PREDICTIONS} (PREDICTIONS_DIR names another folder)")
def test_rules_side_by_side_on_real_reasoning() -> None:
    """On GPT-4o's replies the shared parser of lmms-eval loses 4 points, as it does not read "Answer: X"."""
    files = sorted(PREDICTIONS.glob("mmmu_pro_gpt4o/*cot*"))
    if not files:
        pytest.skip(f"no mmmu_pro_gpt4o/*cot* in {PREDICTIONS}")
    rows = mmmu_pro(files[0])
    names = ("mmmu_pro.official", "mmmu_pro.lmms", "letter.lenient", "mmmu.official")
    official, theirs, lenient, unread = (
        METRICS["mean"]([Scored(row.item, score(name, row.item, row.reply)) for row in rows]).value for name in names
    )
    assert theirs == pytest.approx(official, abs=0.005) and lenient == pytest.approx(official, abs=0.005)
    assert official - unread > 0.03


@pytest.mark.parametrize("rule", ["mmmu_pro.official", "letter.lenient", "scienceqa.llava", "mcq.vlmevalkit"])
def test_speed(rule: str) -> None:
    """100,000 letters in 5 s on one core; a fifth of them here."""
    items = [item(name=str(i)) for i in range(20_000)]
    start = time.process_time()
    for i, one in enumerate(items):
        score(rule, one, FORMS[i % len(FORMS)])
    assert time.process_time() - start < 1.0
