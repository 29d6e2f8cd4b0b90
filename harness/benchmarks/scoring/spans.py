"""Where in a reply its final answer stands, and which expression that span holds."""

from __future__ import annotations

import re
from collections.abc import Callable

LONGEST = 4000
"""Characters at the end of a reply that lenient rules search: one that repeats itself can be very long."""

TAG = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.S | re.I)
BRACE = re.compile(r"(\\boxed\s*)?(?<!\\)\{|(?<!\\)\}")
STATED = re.compile(r"(?i)\banswers?\b(?:[^.\n:=]{0,40}?\b(?:is|are)\b|[^.\n:=]{0,40}?[:=])[\s*_:]*(?=[^\s*_])")
VERB = re.compile(r"\b(?:is|are|be|equals?|about|approximately|roughly|get)\b|≈|\\approx")
SEGMENT = re.compile(
    r"\$[^$\n]+\$|\\\(.{1,300}?\\\)|\\\[.{1,300}?\\\]|[(\[][-−+\d∞.,\s/√π]+[)\]]"
    r"|(?<![\w.])[-−]?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+|√\d+)(?:\s*/\s*\d+)?(?:\s*(?:√\d+|π|\\?%))?(?:e[+-]?\d+)?",
    re.S,
)
"""A formula between dollars or brackets, a tuple or interval of numbers, or a number with what may follow it."""

PLAIN = re.compile(
    r"\\[a-zA-Z]+(?:\{~?[a-zA-Z\s]*\})?"
    r"|\b(?:sqrt|sin|cos|tan|log|(?<!, )and|units?|degrees?|square|cubic|inch(?:es)?|feet|met(?:er|re)s?)\b"
)
"""Words that belong to expressions."""

SENTENCE = re.compile(r"[A-Za-z]{3,}|\b(?:as|at|by|if|is|it|of|so|to|we)\b")


def tagged(reply: str) -> str | None:
    """The last <answer>...</answer>; a reply that ends within it counts."""
    found = TAG.findall(reply)
    return found[-1].strip() if found else None


def boxed(reply: str) -> str | None:
    r"""The content of the last complete \boxed{...}."""
    open_braces: list[tuple[int, bool]] = []
    boxes = []
    for brace in BRACE.finditer(reply):
        if brace[0] == "}":
            start, is_box = open_braces.pop() if open_braces else (0, False)
            if is_box:
                boxes.append((start, brace.start()))
        else:
            open_braces.append((brace.end(), brace[1] is not None))
    return reply[slice(*max(boxes))].strip() if boxes else None


def stated(reply: str) -> str | None:
    """What follows the last "answer is" or "answer:" on its line."""
    ends = [found.end() for found in STATED.finditer(reply)]
    return reply[ends[-1] :].partition("\n")[0] if ends else None


def last_line(reply: str) -> str | None:
    """The last line that holds more than mark-up."""
    lines = [line for line in reply.splitlines() if re.search(r"\w", line)]
    return lines[-1] if lines else None


def marked(reply: str) -> str | None:
    """What a reply marks as its answer: what is in the tag, in the last box, or after the last "answer is"."""
    return _first(reply[-LONGEST:], tagged, boxed, stated)


def final(reply: str) -> str | None:
    """The final answer: what is marked, else the last line; None for a reply without words."""
    return _first(reply[-LONGEST:], tagged, boxed, stated, last_line)


def _first(reply: str, *places: Callable[[str], str | None]) -> str | None:
    spans = (bare(span) for place in places if (span := place(reply)))
    return next(filter(None, spans), None)


def bare(span: str) -> str:
    """Without mark-up around it and without its full stop; of a string in JSON what is between the quotes."""
    span = span.strip().strip("*_` ").removesuffix(".").strip("*_` ")
    quoted = re.match(r'"([^"]*)"', span)
    return quoted[1].strip() if quoted else span


def expression(span: str) -> str:
    """The expression of a span; a span that is no sentence is one.

    Of a sentence what it begins with if that is a formula or a number; else what follows its last "is", or its leading
    words, or its last "="; else the first formula or number after "is", or the last one; else the whole of it.
    """
    if not is_sentence(span):
        return span
    begins = SEGMENT.match(span)
    if begins:
        return begins[0]
    said = VERB.split(span)[-1]
    for tail in (said, re.sub(r"^(?:[A-Za-z]{2,}[\s,:]+)+", "", span), span.rpartition("=")[2]):
        if re.search(r"[\d\\]", tail) and not is_sentence(tail):
            return bare(tail)
    segments = [*SEGMENT.findall(span)[-1:], *SEGMENT.findall(said)[:1]] if said != span else SEGMENT.findall(span)
    return segments[-1] if segments else span


def is_sentence(text: str) -> bool:
    """Whether it has words that do not belong to an expression."""
    return SENTENCE.search(PLAIN.sub("", text)) is not None
