"""What a benchmark gives: items with prompts and references, and the names of the rules that score replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # scores are read without torch, which takes seconds to import
    from harness.engine.trace import Picture
    from pruners.layout import Box

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
        meta: whatever rules and judges need besides, as plain JSON values (options, question, ...).
        system: system texts of this item, after the protocol's.
    """

    id: str
    content: tuple[str | Picture, ...]
    answer: str
    cluster: str
    category: str = ""
    needed: tuple[Box, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)
    system: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scoring:
    """How replies are scored, by names known to `harness.benchmarks.scoring`.

    Attributes:
        rule: the official rule; it may need a judge.
        lenient: a rule that reads answers in any reasonable form, reported beside the official one.
        metrics: what is computed from the verdicts; the first is the headline.
    """

    rule: str
    lenient: str
    metrics: tuple[str, ...] = ("mean",)


class Benchmark(Protocol):
    """A fixed list of items and the names of the rules that score them."""

    @property
    def name(self) -> str:
        """Name of the benchmark."""

    @property
    def scoring(self) -> Scoring:
        """How its replies are scored."""

    def items(self) -> Sequence[Item]:
        """All items, in their fixed order. Pictures may be loaded when an item is taken. Raises DataError."""

    def outlines(self) -> Sequence[Item]:
        """The items, to choose among them by id, cluster and category; without content where reading it takes long."""

    def content_hash(self) -> str:
        """Hash of everything that a reply or its verdict can depend on: prompts, pictures, references, meta, order."""

    def data_id(self) -> dict[str, Any]:
        """Where the data came from: the hub's commit, or digests of local files; empty for made data."""

    def evidence(self, item: Item, text: str, runs: Runs) -> float | None:
        """Evidence recall: the share of the needed regions that was readable when it was needed, 0..1.

        Asked only for items with `needed`; `runs` are those of `harness.engine.evidence.Evidence`.
        """
