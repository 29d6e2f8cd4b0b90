"""LogicVista: all letters of an answer must be those of the reference (Xiao et al., LogicVista, arXiv 2407.04973)."""

from __future__ import annotations

import re
from itertools import groupby
from string import ascii_uppercase

from harness.benchmarks.base import Item
from harness.benchmarks.scoring import spans
from harness.benchmarks.scoring.asking import insist
from harness.benchmarks.scoring.denied import without_denied
from harness.benchmarks.scoring.lenient import WORD, read_letter
from harness.benchmarks.scoring.verdict import Ask, JudgedRule, Rule, Verdict, settle, unjudged

LAST = "H"
"""The last letter of an option."""

QUOTED = re.compile(r"[\"'“‘]([A-Ha-h])[\"'”’]")
REASON = re.compile(r"\b(?:since|because)\b[^,\n]*")
NUMBERED = re.compile(r"^\W*\d+[.):]\s")
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
    """The sorted letters, A to H, of a reply; None if it names none. Letters that are denied ("not A") do not count.

    Those listed first in its tag, box or "answer is"; else those that have lines of their own; else those listed last
    in its last line.
    """
    marked = spans.marked(reply)
    own = listed(marked) if marked else _lines(reply)
    if own:
        return own
    span = marked or spans.last_line(reply) or ""
    text = REASON.sub("", without_denied(QUOTED.sub(r"\1", span), LAST))
    lists = [found[0] for found in LIST.finditer(text) if not (found[0] == "A" and WORD.match(text, found.end()))]
    return (
        key(lists[0] if marked else lists[-1]) if lists else read_letter(reply, letters=ascii_uppercase.index(LAST) + 1)
    )


def listed(text: str) -> str | None:
    """The sorted letters, A to H, of a text that is nothing but them."""
    bare = re.sub(r"[()\[\]{}.\"'-]", " ", text).strip()
    letters = key(bare) if is_letters(bare.upper()) or re.fullmatch(rf"[A-{LAST}]{{2,5}}", bare) else ""
    return letters if letters and letters[-1] <= LAST else None


def _lines(reply: str) -> str | None:
    """The letters of the last lines in a row that hold nothing else."""
    lines = [
        listed(NUMBERED.sub("", spans.bare(line))) for line in reply[-spans.LONGEST :].splitlines() if line.strip()
    ]
    runs = ["".join(filter(None, run)) for alone, run in groupby(lines, key=bool) if alone]
    return key(runs[-1]) if runs else None


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
