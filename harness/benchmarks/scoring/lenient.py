"""The letter of a reply in any reasonable form: what is stated last, and never a guess."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from string import ascii_uppercase

from harness.benchmarks.base import Item
from harness.benchmarks.scoring.denied import without_denied
from harness.benchmarks.scoring.spans import LONGEST
from harness.benchmarks.scoring.verdict import Rule, Verdict, settle

UNKNOWN = 10
"""Letters that are looked for if the options are not known: A to J."""

TAIL = 120
"""Characters at the end of a reply where its last statement mostly is: they are searched first, as that is faster."""

SENTENCE = re.compile(r"[.!?;]\s|\n")
BOXES = re.compile(r"\\boxed\s*\{|<answer>|\bans\b[.:]?|答案[是为：:]*", re.I)
MARKUP = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|rm)\b|[*_`$\"“”<>{}\\]|/answer>", re.I)
CLOSED = re.compile(r"[(\[*{]{1,3}\s?([A-Z])\s?[)\]*}]{1,3}")
WORD = re.compile(r"\s+(?!(?:is|was|because|since|as|for|with|which|that|due|based|from|but|so|and|would)\b)[a-z]|['’]")
"""What follows an A or I that is no letter but a word."""

SEVERAL = re.compile(r"[.)]?\s*(?:or|and|,|/|&)\s*\W?[A-Z]\b(?!\s[a-z])")
"""What follows a letter that is not the only answer."""


@cache
def _patterns(last: str) -> tuple[re.Pattern[str], ...]:
    """A letter alone, two ways to state the answer, to head a line with it, to mention it; for options A to `last`."""
    letter, small = rf"([A-{last}])(?!\w)", rf"([a-{last.lower()}])(?=\W*(?:\n|$))"
    thing = r"(?i:(?:the\s+)?(?:(?:correct|right|best)\s+)?(?:option|choice|answer|letter)?(?:\s+is)?)[\s:('‘’]*"
    return (
        re.compile(rf"\W*(?:(?i:option|choice|answer|letter)\W+)?([A-{last}a-{last.lower()}])\W*"),
        re.compile(
            r"\b(?:[Aa]nswer|ANSWER|(?:[Cc]orrect|right|[Bb]est|[Ff]inal|[Mm]y)\s(?:option|choice|letter)|[Cc]onclusion)\b"
            rf"[^.\n]{{0,40}}?(?:\bis\b|\bbe\b|[:=\n–-])\s*{thing}(?:{letter}|{small})"
            rf"|\b(?:choose|pick|select)\b\s*{thing}{letter}"
            rf"|\b(?i:hence|thus|therefore|so|but)\b[,:]?\s*(?:it\s(?:is|must\sbe)\s)?{thing}{letter}(?=[)!,]*(?:\.\s|\.?\s*$|\n))"
        ),
        re.compile(
            rf"(?<![\w'’]){letter}[.)]?\s(?:[^.\n]{{0,80}}?\s)??is\s(?:\w+\s){{0,2}}?(?:correct|right|best|answer)\b"
        ),
        re.compile(rf"^[^\w\n]*{letter}(?:[.):,–-]|\s*$|\s(?:is|because)\b)|\bis\s{letter}\W*$", re.M),
        re.compile(rf"\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s*\W?{letter}|(?<!\w)[(\[]?{letter}[.)]"),
    )


def clean(reply: str) -> str:
    """Without mark-up and empty lines; a box is a statement, and a letter in brackets or bold ends with a dot."""
    # Runs of white space would make the searches slow: replies that repeat themselves can be very long.
    reply = "\n".join(" ".join(line.split()) for line in reply.splitlines() if line.strip())
    return MARKUP.sub("", CLOSED.sub(r" \1. ", BOXES.sub(" answer: ", reply))).strip()


def read_letter(reply: str, options: Sequence[str] = (), letters: int = UNKNOWN) -> str | None:
    """The letter that a reply states; None if it states none, or several without a last word.

    In this order: a letter alone; the last statement ("The answer is B", "B is correct", "Hence B", a box); the only
    letter that heads a line; the only letter that is mentioned as an option; the only option whose text is in the last
    statement or line. Letters that are denied ("not A") do not count.

    Args:
        reply: the answer part of the reply.
        options: texts of the options, in letter order; empty if they are not known. None are beyond Z.
        letters: how many letters there are then.
    """
    last = ascii_uppercase[: len(options) or letters][-1]
    alone, *statements, heads, mentions = _patterns(last)
    if match := alone.fullmatch(reply):
        return match[1].upper()
    for part in (last_sentences(reply), reply[-LONGEST:]) if len(reply) > TAIL else (reply,):
        text = without_denied(clean(part), last)
        if stated := [found for pattern in statements for found in _found(pattern, text)]:
            return max(stated)[1]
    headed, mentioned = ({letter for _, letter in _found(pattern, text)} for pattern in (heads, mentions))
    for found in (headed, mentioned):
        if len(found) == 1:
            return found.pop()
    return read_text(text, options, last_line=not headed)


def last_sentences(reply: str) -> str:
    """The whole sentences at the end of a long reply."""
    begin = SENTENCE.search(reply, len(reply) - TAIL)
    return reply[begin.end() :] if begin else ""


def _found(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, str]]:
    for match in pattern.finditer(text):
        letter, end = match[match.lastindex or 0], match.end(match.lastindex or 0)
        word = letter in "AI" and WORD.match(text, end)
        if word or SEVERAL.match(text, end) or re.search(r"not\b|n't\b", match[0]):
            continue
        yield match.start(), letter.upper()


def read_text(text: str, options: Sequence[str], last_line: bool = True) -> str | None:
    """The only option whose text is, in whole words, in what follows the last "answer is", else in the last line.

    Args:
        text: a cleaned reply.
        options: texts of the options, in letter order.
        last_line: whether the last line counts; it does not where a reply lists options.
    """
    lines = [text.rpartition("\n")[2]] if last_line else []
    tails = re.findall(r"(?i)\banswer\b[^.\n]{0,40}?(?:\bis\b|:)\s*([^\n]+)", text)
    for place in (*tails[-1:], *lines):
        place = _words(place)
        found = {
            letter: words for letter, option in zip(ascii_uppercase, options, strict=False)
            if (words := _words(option)).strip() and words in place
        }  # fmt: skip
        # An option that is part of a longer one that is there too ("red", "dark red") is not said by itself.
        whole = [a for a, x in found.items() if not any(x in y and x != y for y in found.values())]
        if len(whole) == 1:
            return whole[0]
    return None


def _words(text: str) -> str:
    words = re.findall(r"(?<![\w.%°-])[\w.%°-]*\w[%°]?", text.lower())
    return f" {' '.join(words)} "


def lenient(item: Item, answer: str) -> Verdict:
    """The letter that is stated in any reasonable form; nothing is guessed."""
    letter = read_letter(answer, item.meta.get("options") or ())
    return settle("letter.lenient", letter, letter == item.answer)


RULES: dict[str, Rule] = {"letter.lenient": lenient}
