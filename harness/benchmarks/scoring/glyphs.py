"""Rules of the glyph world."""

from __future__ import annotations

import re

from harness.benchmarks.base import Item
from harness.benchmarks.scoring.verdict import Rule, Verdict, settle


def lookup(item: Item, answer: str) -> Verdict:
    """The whole reply is the answer."""
    said = answer.strip().removesuffix(".").lower() or None
    return settle("glyph.lookup", said, said == item.answer)


def walk(item: Item, answer: str) -> Verdict:
    """The number after the last "answer" is the answer."""
    found = re.fullmatch(r"(?s).*\banswer\b\D*?(\d+).*", answer)
    said = str(int(found[1])) if found else None
    return settle("glyph.walk", said, said == item.answer)


RULES: dict[str, Rule] = {"glyph.lookup": lookup, "glyph.walk": walk}
