"""Rules of MathVerse, DynaMath and LogicVista: replies in many forms, judges that are obstinate, published verdicts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from harness.benchmarks.base import Item
from harness.benchmarks.scoring import METRICS, Measure, Scored, Verdict, score, spans
from harness.benchmarks.scoring.logicvista import read


def item(answer: str, name: str = "1", cluster: str = "1", **meta: Any) -> Item:
    return Item(name, (), answer, cluster, meta={"question": "What is x?", **meta})


class Said:
    """A judge that says one thing after another, and keeps what it was asked."""

    def __init__(self, *replies: str) -> None:
        self.replies, self.prompts, self.temperatures = list(replies), [], []

    def __call__(
        self, prompt: str, *, system: str | None = None, temperature: float = 0.0, max_tokens: int = 2048
    ) -> str:
        self.prompts.append(prompt)
        self.temperatures.append(temperature)
        return self.replies.pop(0)


ELLIPSE = r"\frac{x^2}{81}+\frac{y^2}{9}=1"


@pytest.mark.parametrize(
    ("reference", "reply"),
    [
        ("8.246", r"The distance is $2\sqrt{17} \approx 8.246$ units."),
        ("8.246", "So the distance between (-3, 4) and (5, 2) is 8.2462 units."),
        ("8.246", r"\boxed{2\sqrt{17}}"), ("8.246", "√68"), ("8.246", "<think>..</think><answer>8.246</answer>"),
        ("8.246", "The answer is approximately 8.246 (rounded to 3 decimal places)."),
        (ELLIPSE, "So the equation is x^2/81 + y^2/9 = 1."),
        (ELLIPSE, r"**Answer:** $\frac{x^2}{81} + \frac{y^2}{9} = 1$"),
        (ELLIPSE, "Therefore, the equation is \\[\\frac{x^2}{81}+\\frac{y^2}{9}=1\\]"),
        (r"diameter $=10 \mathrm{~m}$", "The diameter is 10 m."),
        (r"diameter $=10 \mathrm{~m}$", "$2 \\times 5 = 10$ meters"),
        ("$r=5$", "By Pythagoras, r² = 13² − 12² = 25, so r = 5 m.\nI hope this helps!"),
        ("$r=5$", "The radius is:\n\n5"),
        ("45", "The measure of angle A is 45°."), ("30", "∠ABC = 30°"), ("1,000", "It holds 1000 litres"),
        ("-5", "It is -5."),
        ("(3, 4)", "The point is (3, 4) on the graph."), ("(-2,1]", "The interval is $(-2, 1]$"), ("0.75", "75%"),
        ("5", "The length of AB is 12 and BC is 13, so AC = 5."), (r"3\pi", "The area is 3π square units."),
        (r"3\pi", r"The answer is $3\pi$ cm$^2$."), ("20", "### Final Answer\n\n**20**"),
        ("60", "Final answer: **60°**"),
        ("x=2,x=-3", "x = 2 or x = -3"), ("y=2x+1", "The equation of the line is $y = 2x + 1$."),
        ("7", '"short answer": "7"}'),
        ("right triangle", "It is a Right Triangle."), ("5", r"\boxed{4} no, \boxed{\frac{10}{2}} or \boxed{6"),
    ],
)  # fmt: skip
def test_lenient_reads(reference: str, reply: str) -> None:
    verdict = score("math.lenient", item(reference), reply)
    assert verdict.correct and verdict.value == 1.0 and not verdict.unparsed, verdict


@pytest.mark.parametrize(
    ("reference", "reply", "unparsed"),
    [
        ("8.246", "8.25", False), ("8.246", "8", False), (ELLIPSE, "x^2/9 + y^2/81 = 1", False),
        ("2", "x = 2 or x = -3", False),
        ("5", "The answer is 6 since 5 + 1 = 6.", False), ("5", "I cannot determine this.", True), ("5", "", True),
        ("right triangle", "No right triangle is equilateral.", False), ("right triangle", "right", False),
        ("5", "\n \n", True), ("5", r"\boxed{", True),
    ],
)  # fmt: skip
def test_lenient_is_not_lax(reference: str, reply: str, unparsed: bool) -> None:
    verdict = score("math.lenient", item(reference), reply)
    assert (verdict.correct, verdict.unparsed) == (False, unparsed), verdict


@pytest.mark.parametrize("rule", ["math.lenient", "reasoning.lmms"])
@pytest.mark.parametrize(
    "reply", ["B", "The correct answer is B.", "(B)", r"\boxed{B}", "<answer>B</answer>", "**B**: 45°"]
)
@pytest.mark.parametrize("meta", [{}, {"question_type": "multi-choice"}, {"options": ["30°", "45°", "60°"]}])
def test_bare_letters_are_read(rule: str, reply: str, meta: dict[str, Any]) -> None:
    """lmms-eval 0.7.3 scores "B" and "The correct answer is B." 0 (benchmarks.md A.6 row 7, section 5 point 6)."""
    assert score(rule, item("B", **meta), reply) == Verdict(True, 1.0, "B", rule)
    assert score(rule, item("C", **meta), reply).correct is False


@pytest.mark.parametrize("rule", ["math.lenient", "reasoning.lmms", "logicvista.letters"])
@pytest.mark.parametrize(
    ("reference", "reply", "right"),
    [
        ("A, C", "A", False), ("A, C", "C, A", True), ("A, C", "A, C", True),
        ("A, C", "The answer is A and C.", True),
        ("A, C", "A, B, C", False), ("A", "A, C", False), ("A, C", "", False), ("B", "B", True), ("A, C", "AC", True),
    ],
)  # fmt: skip
def test_one_of_two_letters_is_not_enough(rule: str, reference: str, reply: str, right: bool) -> None:
    """lmms-eval 0.7.3 takes "A" for "A, C", and "C, A" for wrong (benchmarks.md section 5, point 6)."""
    assert score(rule, item(reference, skill="spatial"), reply).correct is right


@pytest.mark.parametrize("rule", ["math.lenient", "reasoning.lmms"])
def test_threads(rule: str) -> None:
    """lmms-eval 0.7.3 scores 0 what math-verify must decide in one of its four threads (A.6 row 1)."""
    with ThreadPoolExecutor(4) as pool:
        verdicts = list(
            pool.map(lambda n: score(rule, item(f"{n}/7"), rf"\boxed{{\frac{{{2 * n}}}{{14}}}}"), range(1, 20))
        )
    assert all(v.correct for v in verdicts)


def test_lmms_agrees_with_lmms_eval() -> None:
    """On replies that its scorer can read: tags, boxes and trailing numbers, in one thread."""
    utils = pytest.importorskip("lmms_eval.tasks._task_utils.reasoning_utils")
    rng = random.Random(1)
    forms = [
        "<think>x</think><answer>{}</answer>",
        "<answer> {}. </answer>",
        r"So \boxed{{{}}}.",
        r"\boxed{{9}} \boxed{{{}}}",
    ]
    pool = ["3", "12.5", "12.50", "3.14", "1/2", r"\frac{1}{2}", "0.5", "1000", "B", "C", "45", "yes", "no", "-7"]
    differ = []
    for _ in range(150):
        reference, said = rng.choice(pool), rng.choice(pool)
        form = rng.choice([*forms, "We get {}"] if said in ("3", "12.5", "45", "1000") else forms)
        theirs = utils.compute_score("x", form.format(said), reference)["acc_score"]
        ours = score("reasoning.lmms", item(reference), form.format(said))
        if ours.value != theirs:
            differ.append((reference, form.format(said), ours.value, theirs))
    assert differ == []


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("<answer>a</answer> then <answer>b</answer>", "b"), ("<answer>cut sho", "cut sho"),
        (r"\boxed{a{b}c} d", "a{b}c"), (r"\boxed {\{1\right|}", r"\{1\right|"),
        ("The answer is 4. Wait: the final answer is **5**.", "5"), ("Answer:\n\n7\nthanks", "7"),
        ("x\n*last line*\n---\n", "last line"),
        ("", None), ("***", None), ('{"solution": "s", "short answer": "B"}', "B"),
    ],
)  # fmt: skip
def test_final(text: str, span: str | None) -> None:
    assert spans.final(text) == span


@pytest.mark.parametrize(
    ("reply", "letters"),
    [
        ("b", "B"), ("(a), (c)", "AC"), ("A is correct", "A"), ("A rotation gives D", "D"),
        ("The correct options are C, A.", "AC"),
        ("B. Both figures", "B"), ("Comparing them all, the answer is D", "D"),
        ("The order is A, B, C, D, E.", "ABCDE"),
        ('{"answer": ["A","C"]}', "AC"), ("{'answer': ['A', 'C']}", "AC"), ("not A but B", "B"),
        ("B\n\nA is wrong since D", "B"), ("It's neither A nor B.", None), ("I", None), ("Answer: I", None),
        ("1. A\n2. C", "AC"), ("A\nC", "AC"), ("- (A)\n- (C)", "AC"), ("A is wrong since D", None),
        ("The answer is not A but C and D.", "CD"), ("A and C are wrong, so B", "B"), ("1. one\n2. two", None),
        ("It can't be said.", None), ("", None), ("Figure D is turned.", "D"), ("<answer>C, not B</answer>", "C"),
    ],
)  # fmt: skip
def test_letters_of_a_reply(reply: str, letters: str | None) -> None:
    assert read(reply) == letters


def dynamath(answer: str, kind: str, **more: Any) -> Item:
    return item(answer, answer_type=kind, **more)


@pytest.mark.parametrize(
    ("reference", "kind", "reply", "right", "unparsed"),
    [
        ("2.0944", "float", '{"solution": "...", "short answer": "2.094"}', True, False),
        ("2.0944", "float", '```json\n{"solution": "\\frac{1}{2}",\n "short answer": "2.096"}\n```', False, False),
        ("2.0944", "float", '{"solution": "\\pi", "short answer": 2.0944}', True, False),
        ("6.2832", "float", '{"solution": "", "short answer": "2π rad"}', True, False),
        ("3", "float", "3", True, False), ("3.0", "float", "3.0009 m", True, False),
        ("3.0", "float", "3.0011", False, False),
        ("3.0", "float", "The answer is 3.0", False, True), ("3.0", "float", "π", False, True),
        ("3", "float", "", False, True),
        ("B", "multiple choice", '{"short answer": "B"}', True, False),
        ("B", "multiple choice", '{"short answer": "(b) no"}', True, False),
        ("B", "multiple choice", "B", True, False), ("B", "multiple choice", "c", False, False),
        ("B", "multiple choice", "B) because of A", True, True),
        ("B", "multiple choice", "The answer is B.", False, True),
        ("[1, 2]", "text", '{"short answer": "1, 2"}', True, False), ("blue", "text", "BLUE", True, False),
        ("blue", "text", "light blue", False, False), ("blue", "text", '{"short answer": ""}', False, False),
        ("blue", "text", "", False, True),
        ("2π", "float", "6.283", True, False), ("2π", "float", "2.0", False, False),
        (" 2.5 m", "float", "2.5", True, False),
        ("\\frac{1}{2}", "float", '{"short answer": "\\frac{1}{2}"}', True, False),
        ("\\frac{1}{2}", "float", "0.75", False, False), ("\\frac{1}{2}", "float", "", False, True),
    ],
)  # fmt: skip
def test_dynamath(reference: str, kind: str, reply: str, right: bool, unparsed: bool) -> None:
    """Expectations from VLMEvalKit's rule as protocols.md 1.7 has it."""
    for rule in ("dynamath.rule", "dynamath.vlmevalkit"):
        verdict = score(rule, dynamath(reference, kind), reply)
        assert (verdict.correct, verdict.unparsed, verdict.rule) == (right, unparsed, rule), verdict


@pytest.mark.parametrize("reply", ["The answer is B.", "**B**", r"\boxed{B}", "<answer>B</answer>", "B"])
def test_dynamath_leniently(reply: str) -> None:
    """Scored 0 by lmms-eval without tags (section 5 point 6), and without JSON by the official rule."""
    assert score("math.lenient", dynamath("B", "multiple choice"), reply).correct
    assert score("math.lenient", dynamath("2.0944", "float"), "The period is about 2.094.").correct


def test_dynamath_asks_only_if_nothing_can_be_read() -> None:
    judge = Said()
    assert score("dynamath.vlmevalkit", dynamath("3.0", "float"), "3.0", judge).correct and not judge.prompts
    judge = Said("3.000\n")
    assert score("dynamath.vlmevalkit", dynamath("3.0", "float"), "It is three.", judge).correct
    assert "It is three." in judge.prompts[0]
    verdict = score("dynamath.vlmevalkit", dynamath("3.0", "float"), "It is three.", Said("three"))
    assert verdict.correct is False and verdict.unparsed


def test_mathverse_judges() -> None:
    """Extraction of every answer, in up to five tries that grow warmer; a comparison only where strings differ."""
    rule, problem = "mathverse.vlmevalkit", item("5", question_for_eval="How long is AC?")
    assert score(rule, problem, "5") == Verdict(None, None, None, rule)
    judge = Said("", " ", "5 ")
    assert score(rule, problem, "It is 5.", judge).extracted == "5"
    assert (
        judge.temperatures == [0, 0.5, 1] and "It is 5." in judge.prompts[0] and "How long is AC?" in judge.prompts[0]
    )
    judge = Said("five", "yes", "1")
    assert score(rule, problem, "five", judge) == Verdict(True, 1.0, "five", rule)
    assert judge.temperatures == [0, 0, 0.5] and "five" in judge.prompts[1] and "How long is AC?" in judge.prompts[1]
    assert score(rule, problem, "six", Said("six", "0")).correct is False
    verdict = score(rule, problem, "six", judge := Said("six", *["Correct: 1"] * 5))
    assert verdict.correct is False and judge.temperatures == [0, 0, 0.5, 1, 1.5, 2]
    assert score(rule, problem, "no idea", Said("null", "0")) == Verdict(False, 0.0, "null", rule, unparsed=True)
    assert score(rule, problem, "", Said(*[""] * 5)).unparsed


def test_mathverse_lmms() -> None:
    """lmms-eval 0.7.3 scores 0 when its judge fails; here there is no verdict then."""
    rule, problem = "mathverse.lmms", item("5", question_for_eval="How long is AC?")
    judge = Said("1")
    assert score(rule, problem, "long story: {5}", judge).correct
    assert all(part in judge.prompts[0] for part in ("long story: {5}", "How long is AC?", "Reference: 5"))
    assert score(rule, problem, "6", Said("0")).correct is False
    assert score(rule, problem, "6", Said(*["maybe"] * 5)).correct is None
    assert score(rule, problem, "5").correct is None


def test_logicvista_judges() -> None:
    rule, problem = "logicvista.vlmevalkit", item("A, C", skill="spatial")
    assert score(rule, problem, "C, A").correct is None
    assert score(rule, problem, "C and A", Said("CA")).correct
    assert score(rule, problem, "A", Said("A")).correct is False
    assert score(rule, problem, "A", judge := Said("The letter is A", "a", "AC")).correct
    assert judge.temperatures == [0, 0.5, 1] and "What is x?" in judge.prompts[0]
    assert score(rule, problem, "?", Said(*["none!"] * 5)).unparsed
    assert score(rule, problem, "?", Said("Z")) == Verdict(False, 0.0, "Z", rule, unparsed=True)


def scored(verdicts: Sequence[Sequence[bool | None]], unique: bool = False) -> list[Scored]:
    return [
        Scored(
            item("B", f"{q}_{v}", f"{q}_{v}" if unique else str(q)),
            Verdict(right, None if right is None else float(right), "B", "r"),
        )
        for q, row in enumerate(verdicts)
        for v, right in enumerate(row)
    ]


def measure(metric: str, samples: Sequence[Scored]) -> Measure:
    return METRICS[metric](samples)


def test_dynamath_metrics_by_hand() -> None:
    samples = scored([[True] * 10, [True] * 9 + [False], [False] * 10])
    random.Random(0).shuffle(samples)
    assert measure("dynamath.average", samples) == Measure(19 / 30, 30)
    assert measure("dynamath.worst", samples) == Measure(1 / 3, 3)
    assert measure("dynamath.worst", samples * 2) == Measure(1 / 3, 6), "repeats are questions of their own"


def test_incomplete_groups_are_said() -> None:
    worst = measure("dynamath.worst", scored([[True] * 10, [True] * 10, [True] * 3, [True, None] * 5]))
    assert (worst.value, worst.n) == (1.0, 2)
    assert "5 of 33 samples are unjudged" in worst.note and "2 of 4 questions do not have 10 variants" in worst.note
    assert "have 3 variants, not 10" in measure("dynamath.worst", scored([[True] * 3] * 2)).note
    assert measure("dynamath.worst", []).value is None and measure("dynamath.average", []).value is None


def test_unique_ids_do_not_pass_for_a_worst_case() -> None:
    """By an id that is unique per row, lmms-eval's "worst" silently equals its "average" (section 5, point 8)."""
    worst = measure("dynamath.worst", scored([[True] * 10, [False] * 10], unique=True))
    assert worst.value == 0.5 and "not a worst case" in worst.note
