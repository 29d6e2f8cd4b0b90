"""The glyph world as a benchmark: frozen test sets of look-ups and walks, drawn when an item is taken."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, overload

from PIL import Image

from harness.benchmarks import glyphs
from harness.benchmarks.base import Item, Runs, Scoring
from pruners.layout import Box

LENGTHS = range(3, 9)
"""Steps of the walks of the default test."""
LONGEST = 24
"""A free walk of more steps is too rare to be drawn."""


@dataclass(frozen=True, kw_only=True)
class Glyphs:
    """Look-ups or walks in pictures of 8 x 8 cells (see `harness.benchmarks.glyphs`).

    Attributes:
        task: "lookup" (one glance) or "walk" (follow arrows, add pips).
        seed: of the test set. Training draws from other streams, so the pictures of every seed are unseen.
        by: how look-ups name their cell.
        size: number of items.
        cell_pixels: side of a cell, a multiple of 16.
        lengths: steps of the walks, in turn (null: 3 to 8).
        free: questions in other words than the default test's.
        distractors: a sentence about cells or colours that do not matter comes first.
        pictures: 2 for a second picture in the prompt; the question says which one it is about.
    """

    task: Literal["lookup", "walk"]
    seed: int = 0
    by: Literal["both", "position", "colour"] = "both"
    size: int = 1000
    cell_pixels: int = 16
    lengths: Sequence[int] | None = None
    free: bool = False
    distractors: bool = False
    pictures: Literal[1, 2] = 1

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")
        if self.cell_pixels < 16 or self.cell_pixels % 16:
            raise ValueError(f"cell_pixels must be a multiple of 16, got {self.cell_pixels}")
        if self.pictures not in (1, 2):
            raise ValueError(f"pictures must be 1 or 2, got {self.pictures}")
        if self.lengths is not None and not (self.lengths and all(1 <= n <= LONGEST for n in self.lengths)):
            raise ValueError(f"lengths must be some of 1 to {LONGEST}, got {list(self.lengths)}")

    @property
    def name(self) -> str:
        """Name of the benchmark."""
        return f"glyph_{self.task}"

    @property
    def scoring(self) -> Scoring:
        """One rule: replies are machine-made words."""
        return Scoring(f"glyph.{self.task}", f"glyph.{self.task}")

    def items(self) -> Sequence[Item]:
        """All items; each is drawn from its own random stream when it is taken."""
        return _Items(self)

    def draw(self, i: int) -> glyphs.Task:
        """The i-th question with its grid. Kinds and lengths alternate, so that every prefix is balanced."""
        rng = random.Random(f"test/{self.task}/{self.seed}/{i}")
        task = self._asked(rng, i)
        if self.distractors:
            task = glyphs.distracted(rng, task)
        return glyphs.paired(rng, task) if self.pictures == 2 else task

    def _asked(self, rng: random.Random, i: int) -> glyphs.Task:
        if self.task == "walk":
            lengths = self.lengths or LENGTHS
            return glyphs.walk(rng, lengths[i % len(lengths)], free=self.free)
        if self.by == "colour" or (self.by == "both" and i % 2 == 1):
            return glyphs.lookup_by_colour(rng, free=self.free)
        return glyphs.lookup_by_position(rng, free=self.free)

    def outlines(self) -> Sequence[Item]:
        """The items without pictures, drawn once: a grid of many cells asks for them again and again."""
        return self._outlines

    @cached_property
    def _outlines(self) -> list[Item]:
        return [dataclasses.replace(item, content=()) for item in self.items()]

    def content_hash(self) -> str:
        """SHA-256 over prompts and pictures in order."""
        return self._hash

    @cached_property
    def _hash(self) -> str:
        digest = hashlib.sha256()
        for i in range(self.size):
            task = self.draw(i)
            digest.update(f"{i}\n{task.question}\n{task.answer}\n{self.cell_pixels}\n".encode())
            for grid in task.grids:
                digest.update(glyphs.render(grid).tobytes())
        return digest.hexdigest()

    def item(self, i: int) -> Item:
        """The i-th item, with its picture."""
        task = self.draw(i)
        steps = len(task.needed) - 1
        return Item(
            id=f"{i:05d}",
            content=(*(Image.fromarray(glyphs.render(g, self.cell_pixels)) for g in task.grids), task.question),
            answer=task.answer,
            cluster=f"{i:05d}",
            category=f"steps-{steps}" if self.task == "walk" else task.kind,
            needed=tuple(_box(len(task.before), cell) for cell in task.needed),
            meta={"reply": task.reply},
        )

    def data_id(self) -> dict[str, Any]:
        """Made data: the seed, which the configuration holds, says all."""
        return {}

    def evidence(self, item: Item, text: str, runs: Runs) -> float | None:
        """Evidence recall. A look-up needs its cell for its first token; a walk needs its k-th cell for the pips and
        the arrow that it writes after the k-th place name. What the reply did not get to counts as at its end."""
        if not runs:
            return None
        places = read_at(text, len(item.needed), walk=self.task == "walk")
        shares = [sum(_run(runs, place)[k] for place in at) / len(at) for k, at in enumerate(places)]
        return sum(shares) / len(shares)


def read_at(text: str, cells: int, walk: bool) -> list[list[int]]:
    """For each needed cell, after how many characters of a reply it is read (see `Glyphs.evidence`)."""
    found = list(re.finditer(r"\b[a-h][1-8]( \d)(?: = \d+( \w+))?", text)) if walk else []
    reached = [[match.start(i) for i in (1, 2) if match[i] is not None] for match in found[:cells]]
    return reached + [[len(text)] if walk else [0]] * (cells - len(reached))


def _run(runs: Runs, place: int) -> Sequence[float]:
    """The run in force when the token after `place` characters was written."""
    return next(shares for start, shares in reversed(runs) if start <= place)


def _box(picture: int, cell: glyphs.Cell) -> Box:
    row, column = cell
    side = glyphs.SIZE
    return Box(picture, row / side, column / side, (row + 1) / side, (column + 1) / side)


class _Items(Sequence[Item]):
    def __init__(self, benchmark: Glyphs) -> None:
        self._benchmark = benchmark

    def __len__(self) -> int:
        return self._benchmark.size

    @overload
    def __getitem__(self, i: int) -> Item: ...
    @overload
    def __getitem__(self, i: slice) -> list[Item]: ...
    def __getitem__(self, i: int | slice) -> Any:
        if isinstance(i, slice):
            return [self._benchmark.item(k) for k in range(*i.indices(len(self)))]
        return self._benchmark.item(range(len(self))[i])
