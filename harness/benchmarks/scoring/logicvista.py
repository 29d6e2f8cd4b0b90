"""LogicVista: all letters of an answer must be those of the reference (Xiao et al., LogicVista, arXiv 2407.04973)."""

from __future__ import annotations

import re

from harness.benchmarks.base import Item
from harness.benchmarks.scoring import spans
from harness.benchmarks.scoring.asking import insist
from harness.benchmarks.scoring.lenient import WORD, read_letter
from harness.benchmarks.scoring.verdict import Ask, JudgedRule, Rule, Verdict, settle, unjudged

LIST = re.compile(r"(?<![\w'’])[A-H](?![\w'’])(?:(?:[\s,;&/().*]|\band\b)+[A-H](?![\w'’]))*")
EXTRACT = """\
Below are a multiple-choice question and a response to it. Write down the letters of the options that the response \
chooses. If it names no letter, infer it from the options. If it chooses none of the options, write Z. Write capital \
letters alone, several without anything between them.

Question: What is the main object? Options: A. teddy bear B. rabbit C. cat D. dog
Response: a cute teddy bear
Letters: A
Question: What is the main object? Options: A. teddy bear B. rabbit C. cat D. dog
Response: Spider
Letters: Z
Question: Which boxes come next? Select from A-E.
Response: The boxes that follow are B, C and E.
Letters: BCE

Question: {question}
Response: {response}
Letters:"""


def letters(item: Item, answer: str) -> Verdict:
    """All letters that the answer names are compared with the reference, in any order; "A" is not "A, C".

    lmms-eval 0.7.3 counts one of two letters as right and another order as wrong.
    """
    said = read(answer)
    return settle("logicvista.letters", said, said == key(item.answer))


def read(reply: str) -> str | None:
    """The sorted letters of a reply: those listed first in its tag, box or "answer is", else last in its last line."""
    span = spans.final(reply)
    if span is None:
        return None
    if is_letters(re.sub(r"[()\[\].]", " ", span).upper()) or re.fullmatch("[A-H]{2,5}", span):
        return key(span)
    lists = [found[0] for found in LIST.finditer(span) if not (found[0] == "A" and WORD.match(span, found.end()))]
    if lists:
        return key(lists[-1] if span == spans.bare(spans.last_line(reply) or "") else lists[0])
    return read_letter(reply)


def is_letters(text: str) -> bool:
    """Whether a text lists capital letters and nothing else."""
    return re.fullmatch(r"[A-Z](?:(?:[\s,;&]|AND\b)+[A-Z])*", text.strip()) is not None


def key(text: str) -> str:
    """Its letters, each once, in alphabetical order."""
    return "".join(sorted(set(re.findall("[A-Z]", re.sub(r"\bAND\b", "", text.upper())))))


def vlmevalkit(item: Item, answer: str, ask: Ask | None) -> Verdict:
    """A judge names the letters of every answer, in up to five tries; if it names none, the answer is wrong.

    Source: VLMEvalKit, vlmeval/dataset/utils/logicvista.py, LogicVista_auxeval. The question to the judge is in our
    words, with the same contents and form of reply.
    """
    if ask is None:
        return unjudged("logicvista.vlmevalkit")
    prompt = EXTRACT.format(question=item.meta["question"], response=answer)
    said = insist(ask, prompt, lambda reply: reply.strip() if re.fullmatch("[A-Z]+", reply.strip()) else None)
    if said is None:
        return settle("logicvista.vlmevalkit", None, False)
    return settle("logicvista.vlmevalkit", said, sorted(said) == sorted(key(item.answer)), guessed=said == "Z")


RULES: dict[str, Rule] = {"logicvista.letters": letters}
JUDGED: dict[str, JudgedRule] = {"logicvista.vlmevalkit": vlmevalkit}
