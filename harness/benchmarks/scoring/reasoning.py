"""Rules for benchmarks of reasoning in general: answers that are letters, expressions or words."""

from __future__ import annotations

import re

from harness.benchmarks.base import Item
from harness.benchmarks.scoring import dynamath, logicvista, maths, mathverse, spans
from harness.benchmarks.scoring.lenient import read_letter
from harness.benchmarks.scoring.verdict import JudgedRule, Metric, Rule, Verdict, settle

NUMBER_AT_END = re.compile(r"(?<![\w).])-?\b\d+(?:\.\d+)?$")
CONTAINED = 0.9
"""lmms-eval's share of the longer text that a text contained in it must have."""


def lenient(item: Item, answer: str) -> Verdict:
    """The answer in any reasonable form: letters, else expressions by math-verify, else words.

    It is read from the <answer> tag, the last box, the last "answer is", the last line, or the last number. A reference
    with decimals is met by what rounds to it: MathVerse's "8.246" is the square root of 68. DynaMath's floats are met
    by what its official rule accepts.
    """
    if logicvista.is_letters(item.answer):
        return _letters("math.lenient", item, answer)
    span = spans.final(answer)
    said = spans.expression(span) if span else None
    if said and re.search(r"\d", item.answer) and not re.search(r"[\dπ∞]|\\pi|\\infty", said):
        said = next(reversed(spans.SEGMENT.findall(answer[-spans.LONGEST :])), None)
    if span is None or said is None:
        return settle("math.lenient", None, False)
    if item.meta.get("answer_type") == "float" and dynamath.rule(item, said).correct:
        return settle("math.lenient", said, True)
    decimals = decimals_of(item.answer)
    right = same_words(item.answer, span) or maths.equal(item.answer, said, decimals=decimals) is True
    return settle("math.lenient", said, right)


def lmms(item: Item, answer: str) -> Verdict:
    """lmms-eval's reasoning scorer (0.7.3, tasks/_task_utils/reasoning_utils.py, compute_score), without its judge.

    The first <answer> tag, else the last box, else a number that ends a line; letters and texts are compared as such,
    then math-verify decides. Where it reads nothing it scores 0, even for a bare "B"; here such replies are read as
    `math.lenient` reads them. Its other faults are left out, too: letters found within the words of a reference, one
    letter that counts for two, and math-verify failing in threads.
    """
    marked = spans.TAG.search(answer)
    answer = answer[-spans.LONGEST :]
    part = marked[1].strip() if marked else spans.boxed(answer)
    if logicvista.is_letters(item.answer):
        return _letters("reasoning.lmms", item, part or answer)
    if not (part := part or number_at_end(answer)):
        span = spans.final(answer)
        part = spans.expression(span) if span else None
    if part is None:
        return settle("reasoning.lmms", None, False)
    said, reference = (text.removesuffix(".").strip() for text in (part, item.answer))
    right = contained(said, reference) or contained(reference, said) or maths.equal(reference, said) is True
    return settle("reasoning.lmms", said, right)


def _letters(rule: str, item: Item, answer: str) -> Verdict:
    """One letter as `letter.lenient` reads it if the item is known to have options, else all letters."""
    kinds = item.meta.get("question_type"), item.meta.get("answer_type")
    single = item.meta.get("options") or "multi-choice" in kinds or "multiple choice" in kinds
    said = read_letter(answer, item.meta.get("options") or ()) if single else logicvista.read(answer)
    return settle(rule, said, said == logicvista.key(item.answer))


def number_at_end(reply: str) -> str | None:
    """The number that ends the last line that ends with one."""
    lines = (line.rstrip().removesuffix(".").rstrip() for line in reversed(reply.split("\n")))
    return next((found[0] for line in lines if (found := NUMBER_AT_END.search(line))), None)


def contained(part: str, whole: str) -> bool:
    """Whether a text makes up nearly the whole of another."""
    return part in whole and len(part) >= CONTAINED * len(whole)


def same_words(reference: str, span: str) -> bool:
    """Whether a reference without numbers is what a span says, or ends with."""
    if re.search(r"[\d\\]", reference):
        return False
    ours, theirs = (re.findall(r"\w+", text.lower()) for text in (reference, span))
    return bool(ours) and theirs[-len(ours) :] == ours


def decimals_of(reference: str) -> int:
    """Decimals that an answer is rounded to: those of a reference that is one decimal number, else math-verify's."""
    numbers = re.findall(r"\d+(?:\.(\d+))?", reference.replace(",", ""))
    if len(numbers) != 1 or not numbers[0] or re.search(r"sqrt|pi|frac|[√π^]", reference):
        return maths.DECIMALS
    return len(numbers[0]) + 2 * ("%" in reference)


RULES: dict[str, Rule] = {
    "math.lenient": lenient,
    "reasoning.lmms": lmms,
    **dynamath.RULES,
    **logicvista.RULES,
}
JUDGED: dict[str, JudgedRule] = {**mathverse.JUDGED, **dynamath.JUDGED, **logicvista.JUDGED}
METRICS: dict[str, Metric] = dynamath.METRICS
