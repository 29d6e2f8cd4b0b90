"""MathVerse: a judge extracts answers and compares them (Zhang et al., MathVerse, arXiv 2403.14624)."""

from __future__ import annotations

from harness.benchmarks.base import Item
from harness.benchmarks.scoring.asking import binary, insist
from harness.benchmarks.scoring.verdict import Ask, JudgedRule, Verdict, settle, unjudged

EXTRACT = """\
Below are a mathematical question and a response to it. Write down the final answer that the response gives, in \
its own words and as short as possible: the option letter for a multiple-choice question, else the value, expression, \
equation or interval, all of them if several are asked for. Do not solve the question and do not correct the response. \
If the response gives no answer, write: null. Write the answer alone, without any explanation.

Response: So the sector has, to two decimal places, a perimeter of: 14.28
Answer: 14.28
Response: Therefore the graphs meet where both have the same value. The correct option is D. They solve f(t) = g(t).
Answer: D
Response: Domain: \\((-3, 3]\\), and since y = 1 is reached, range: \\((-4, 1]\\)
Answer: Domain: (-3, 3], range: (-4, 1]
Response: The picture does not show enough to find y.
Answer: null

Question: {question}
Response: {response}
Answer:"""
COMPARE = """\
Below are a mathematical question, its reference answer, and an answer that was extracted from a model's response. \
Decide whether the extracted answer agrees with the reference completely. For questions without options another way to \
express the same is agreement (0.5 m and 50 cm). Another option, an interval with another end, a part of what is asked \
for, and null are no agreement. Reply 1 for agreement, else 0, and nothing more.

Question: Give the set on the number line in interval notation.
Reference: (-2,1]
Extracted: (-2,1)
Verdict: 0

Question: {question}
Reference: {reference}
Extracted: {extracted}
Verdict:"""
CHECK = """\
Judge whether a model's response to a question is correct. Compare its final answer with the reference: another form, \
notation or wording of the same answer is correct, and so is an option's text for its letter; anything that differs in \
value, is incomplete or is missing is not. Reply 1 if the response is correct, else 0, and nothing more.

Question: {question}
Reference: {reference}
Response: {response}
Verdict:"""


def vlmevalkit(item: Item, answer: str, ask: Ask | None) -> Verdict:
    """A judge extracts the answer, whatever the response; equal strings are right, else the judge compares.

    Source: VLMEvalKit, vlmeval/dataset/utils/mathverse.py, MathVerse_auxeval_extract and _score: up to five tries each,
    wrong if none of them is 0 or 1. The questions to the judge are in our words, with the same contents and replies.
    """
    if ask is None:
        return unjudged("mathverse.vlmevalkit")
    question = question_of(item)
    extracted = insist(ask, EXTRACT.format(question=question, response=answer), lambda reply: reply.strip() or None)
    if extracted is None or extracted == item.answer.strip():
        return settle("mathverse.vlmevalkit", extracted, extracted is not None)
    said = insist(ask, COMPARE.format(question=question, reference=item.answer, extracted=extracted), binary)
    return settle("mathverse.vlmevalkit", extracted, said == "1", guessed=extracted == "null")


def lmms(item: Item, answer: str, ask: Ask | None) -> Verdict:
    """A judge says 1 or 0 of the full response (lmms-eval 0.7.3, MathVerseEvaluator.eval_answer).

    There a judge that fails scores 0; here the sample stays unjudged. The question to the judge is in our words.
    """
    prompt = CHECK.format(question=question_of(item), reference=item.answer, response=answer)
    said = insist(ask, prompt, binary) if ask else None
    return unjudged("mathverse.lmms") if said is None else settle("mathverse.lmms", answer.strip() or None, said == "1")


def question_of(item: Item) -> str:
    """The full question in words, which some problem versions have in the picture only."""
    return str(item.meta.get("question_for_eval") or item.meta["question"])


JUDGED: dict[str, JudgedRule] = {"mathverse.vlmevalkit": vlmevalkit, "mathverse.lmms": lmms}
