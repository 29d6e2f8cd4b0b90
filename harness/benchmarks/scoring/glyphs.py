"""Rules of the glyph world."""

from __future__ import annotations

import re
from itertools import pairwise

from harness.benchmarks.base import Item
from harness.benchmarks.scoring.verdict import Rule, Verdict, settle


def lookup(item: Item, answer: str) -> Verdict:
    """The whole reply is the answer."""
    said = answer.strip().removesuffix(".").lower() or None
    return settle("glyph.lookup", said, said == item.answer)


def walk(item: Item, answer: str) -> Verdict:
    """The number after the last "answer" is the answer."""
    found = pairwise(re.findall(r"\banswer\b|[0-9]+", answer))
    numbers = [number.lstrip("0") or "0" for word, number in found if word == "answer" != number]
    said = numbers[-1] if numbers else None
    return settle("glyph.walk", said, said == item.answer)


RULES: dict[str, Rule] = {"glyph.lookup": lookup, "glyph.walk": walk}
