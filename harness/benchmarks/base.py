"""What a benchmark gives: items with prompts and references, and a rule that scores replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from harness.engine.trace import Picture
from pruners.views import Box

Runs = Sequence[tuple[int, Sequence[float]]]
"""(characters of the reply so far, readable share of each needed region), a new entry when it changes."""


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        id: unique and stable in its benchmark.
        content: text and pictures of the user turn, in order.
        answer: the reference.
        cluster: items that share a picture or a seed question; the unit of resampling.
        category: for break-downs.
        needed: regions that the answer needs, in order of use, where known.
        meta: whatever the scorer needs besides.
    """

    id: str
    content: tuple[str | Picture, ...]
    answer: str
    cluster: str
    category: str = ""
    needed: tuple[Box, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """Verdict on one reply: credit 0..1, and the answer that was read from it (None: nothing could be read)."""

    credit: float
    parsed: str | None


class Benchmark(Protocol):
    """A fixed list of items and the rule that scores them."""

    name: str

    def items(self) -> Sequence[Item]:
        """All items, in their fixed order. Pictures may be loaded when an item is taken."""

    def content_hash(self) -> str:
        """Hash of everything that a reply can depend on: prompts, pictures, order."""

    def score(self, item: Item, text: str) -> Score:
        """Verdict on a reply, by the benchmark's official rule."""

    def evidence(self, item: Item, text: str, runs: Runs) -> float | None:
        """Evidence recall: the share of the needed regions that was readable when it was needed, 0..1.

        Asked only for items with `needed`; `runs` are those of `harness.engine.evidence.Evidence`.
        """
