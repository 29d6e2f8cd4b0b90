"""The glyph world: pictures of cells whose needed parts are known, so that evidence can be followed step by step.

A picture is a grid of 8 x 8 cells. Every cell has a border colour, one to five pips and an arrow. Two tasks:

* **look-up** (one glance): the pips, the colour or the arrow of one cell, named by its position ("c3") or, where its
  colour occurs only once, by its colour;
* **walk** (visual reasoning): start at a cell, follow the arrows k steps over k + 1 different cells, add up their pips
  and write the trace out. Every step needs another cell of the picture.

Either can be asked in other words (`free`), behind words that do not matter (`distracted`) or about one of two pictures
(`paired`); the default test sets have none of these.

Everything is drawn from `random.Random(text)`, whose stream Python keeps stable, so a test set is fixed by its seed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

SIZE = 8
COLOURS = {
    "red": (220, 40, 40),
    "orange": (255, 150, 20),
    "yellow": (240, 230, 60),
    "green": (40, 170, 60),
    "cyan": (60, 210, 230),
    "blue": (50, 80, 220),
    "purple": (150, 60, 190),
    "white": (250, 250, 250),
}
ARROWS = {"up": (-1, 0), "right": (0, 1), "down": (1, 0), "left": (0, -1)}
MAX_PIPS = 5
ATTRIBUTES = ("pips", "colour", "arrow")
_COLOUR_NAMES, _ARROW_NAMES = tuple(COLOURS), tuple(ARROWS)
_STEPS = tuple(ARROWS.values())

Cell = tuple[int, int]
"""(row, column), both 0-based; `name` writes (2, 0) as "a3"."""


@dataclass(frozen=True)
class Grid:
    """Cells of one picture; each field is indexed [row][column]."""

    colour: tuple[tuple[int, ...], ...]
    pips: tuple[tuple[int, ...], ...]
    arrow: tuple[tuple[int, ...], ...]

    def read(self, cell: Cell, attribute: str) -> str:
        """What a reply must say about `attribute` of `cell`."""
        row, column = cell
        if attribute == "pips":
            return str(self.pips[row][column])
        if attribute == "colour":
            return _COLOUR_NAMES[self.colour[row][column]]
        return _ARROW_NAMES[self.arrow[row][column]]


@dataclass(frozen=True)
class Task:
    """One question about one grid. `needed` lists the cells in the order in which the reply needs them.

    Attributes:
        before, after: grids of pictures shown before and after the one that is asked about.
    """

    kind: str
    grid: Grid
    question: str
    reply: str
    answer: str
    needed: tuple[Cell, ...]
    before: tuple[Grid, ...] = ()
    after: tuple[Grid, ...] = ()

    @property
    def grids(self) -> tuple[Grid, ...]:
        """All pictures of the prompt in order."""
        return (*self.before, self.grid, *self.after)


def name(cell: Cell) -> str:
    """Spreadsheet name of a cell: column letter, row number from 1."""
    return f"{'abcdefgh'[cell[1]]}{cell[0] + 1}"


def _pick(rng: random.Random, n: int) -> int:
    # random() is the one method whose stream Python promises to keep between versions.
    return int(rng.random() * n)


def _draw_path(rng: random.Random, steps: int, side: int) -> tuple[list[Cell], list[int]]:
    """Cells of a walk that never visits a cell twice, and the arrow taken from each but the last."""
    while True:
        cells, arrows = [(_pick(rng, side), _pick(rng, side))], list[int]()
        while len(arrows) < steps:
            row, column = cells[-1]
            ways = [
                i for i, (dr, dc) in enumerate(_STEPS)
                if 0 <= row + dr < side and 0 <= column + dc < side and (row + dr, column + dc) not in cells
            ]  # fmt: skip
            if not ways:
                break
            arrows.append(ways[_pick(rng, len(ways))])
            cells.append((row + _STEPS[arrows[-1]][0], column + _STEPS[arrows[-1]][1]))
        if len(arrows) == steps:
            return cells, arrows


def _draw_grid(rng: random.Random, unique: int = 0) -> tuple[Grid, list[Cell]]:
    """A random grid in which `unique` colours occur in exactly one cell each; those cells come second."""
    order = sorted(range(len(COLOURS)), key=lambda _: rng.random())
    common = order[unique:]
    colour = [[common[_pick(rng, len(common))] for _ in range(SIZE)] for _ in range(SIZE)]
    pips = [[1 + _pick(rng, MAX_PIPS) for _ in range(SIZE)] for _ in range(SIZE)]
    arrow = [[_pick(rng, len(ARROWS)) for _ in range(SIZE)] for _ in range(SIZE)]
    places = sorted(((r, c) for r in range(SIZE) for c in range(SIZE)), key=lambda _: rng.random())[:unique]
    for rare, (row, column) in zip(order[:unique], places, strict=True):
        colour[row][column] = rare
    return _freeze(colour, pips, arrow), places


def _freeze(*fields: list[list[int]]) -> Grid:
    return Grid(*(tuple(map(tuple, field)) for field in fields))


_POSITION_QUESTIONS = {"pips": "how many pips at {}?", "colour": "what colour is {}?", "arrow": "where does {} point?"}
_COLOUR_QUESTIONS = {"pips": "how many pips in the {} cell?", "arrow": "where does the {} cell point?"}
_WALK_QUESTION = "start at {} and follow the arrows {} steps. add the pips."
_FREE_POSITION = {
    "pips": ("tell me the number of pips at {}.", "at {}, count the pips.", "pips at {}?"),
    "colour": ("tell me the colour at {}.", "at {}, name the colour.", "colour of {}?"),
    "arrow": ("tell me which way the arrow at {} goes.", "at {}, name the arrow.", "arrow at {}?"),
}
_FREE_COLOUR = {
    "pips": ("tell me the number of pips in the {} cell.", "look at the {} cell: count the pips.", "pips of {}?"),
    "arrow": ("tell me which way the {} cell goes.", "look at the {} cell: name the arrow.", "arrow of {}?"),
}
_FREE_WALK = (
    "from {}, go {} steps along the arrows and count all pips.",
    "begin at {}: the sum of the pips over {} steps?",
    "walk from {} for {} steps and tell me the sum of the pips.",
)
_DISTRACTIONS = ("never mind {} and {}.", "{} and {} do not matter.", "someone else asks about {} and {}.")
_ORDINALS = ("first", "second")


def _wording(rng: random.Random, frozen: str, others: tuple[str, ...], free: bool) -> str:
    return others[_pick(rng, len(others))] if free else frozen


# Arguments that only training uses: several cells per question, and `side`, which keeps the cells asked for in the
# upper left corner of the picture.


def lookup_by_position(rng: random.Random, cells: int = 1, side: int = SIZE, free: bool = False) -> Task:
    """ "how many pips at c3?"."""
    grid, _ = _draw_grid(rng)
    attribute = ATTRIBUTES[_pick(rng, len(ATTRIBUTES))]
    needed = tuple((_pick(rng, side), _pick(rng, side)) for _ in range(cells))
    wording = _wording(rng, _POSITION_QUESTIONS[attribute], _FREE_POSITION[attribute], free)
    question = wording.format(", ".join(map(name, needed)))
    reply = ", ".join(grid.read(cell, attribute) for cell in needed)
    return Task("position", grid, question, reply, reply, needed)


def lookup_by_colour(rng: random.Random, cells: int = 1, free: bool = False) -> Task:
    """ "how many pips in the cyan cell?" about a colour that occurs once in the picture."""
    grid, unique = _draw_grid(rng, unique=cells)
    attribute = ("pips", "arrow")[_pick(rng, 2)]
    colours = [grid.read(cell, "colour") for cell in unique]
    wording = _wording(rng, _COLOUR_QUESTIONS[attribute], _FREE_COLOUR[attribute], free)
    question = wording.format(", ".join(colours))
    reply = ", ".join(grid.read(cell, attribute) for cell in unique)
    return Task("colour", grid, question, reply, reply, tuple(unique))


def walk(rng: random.Random, steps: int, side: int = SIZE, free: bool = False) -> Task:
    """ "start at c3 and follow the arrows 5 steps. add the pips." The reply writes every step out."""
    cells, arrows = _draw_path(rng, steps, side)
    grid, _ = _draw_grid(rng)
    arrow = [list(row) for row in grid.arrow]
    for (row, column), way in zip(cells, arrows, strict=False):
        arrow[row][column] = way
    grid = Grid(grid.colour, grid.pips, tuple(map(tuple, arrow)))
    total, trace = 0, []
    for i, cell in enumerate(cells):
        total += grid.pips[cell[0]][cell[1]]
        turn = f" {grid.read(cell, 'arrow')}" if i < steps else ""
        trace.append(f"{name(cell)} {grid.read(cell, 'pips')} = {total}{turn}")
    question = _wording(rng, _WALK_QUESTION, _FREE_WALK, free).format(name(cells[0]), steps)
    return Task("walk", grid, question, f"{' '.join(trace)} answer {total}", str(total), tuple(cells))


def distracted(rng: random.Random, task: Task) -> Task:
    """The task behind a sentence about two cells, or two colours, that do not matter."""
    words = [name((_pick(rng, SIZE), _pick(rng, SIZE))) for _ in range(2)]
    if task.kind == "position" and rng.random() < 0.5:
        words = [_COLOUR_NAMES[_pick(rng, len(COLOURS))] for _ in range(2)]
    sentence = _DISTRACTIONS[_pick(rng, len(_DISTRACTIONS))].format(*words)
    return replace(task, question=f"{sentence} {task.question}")


def paired(rng: random.Random, task: Task) -> Task:
    """The task about the first or the second of two pictures; the question says which."""
    other, k = (_draw_grid(rng)[0],), _pick(rng, 2)
    question = f"in the {_ORDINALS[k]} picture, {task.question}"
    return replace(task, question=question, before=other if k else (), after=() if k else other)


def read_row(rng: random.Random, side: int = SIZE) -> Task:
    """Training only: a whole row aloud, so that every cell of it is supervised."""
    grid, _ = _draw_grid(rng)
    row = _pick(rng, side)
    cells = tuple((row, column) for column in range(SIZE))
    parts = [" ".join([name(cell), *(grid.read(cell, attribute) for attribute in ATTRIBUTES)]) for cell in cells]
    return Task("read", grid, f"read row {row + 1}.", " ".join(parts), "", cells)


def find_colours(rng: random.Random) -> Task:
    """Training only: the cells of several colours that occur once, each named and read aloud."""
    grid, unique = _draw_grid(rng, unique=2 + _pick(rng, 4))
    colours = [grid.read(cell, "colour") for cell in unique]
    parts = [
        f"{colour} {name(cell)} {grid.read(cell, 'pips')} {grid.read(cell, 'arrow')}"
        for colour, cell in zip(colours, unique, strict=True)
    ]
    return Task("find", grid, f"read the {', '.join(colours)} cell.", " ".join(parts), "", tuple(unique))


@lru_cache(maxsize=4)
def _sprites(pixels: int) -> npt.NDArray[np.uint8]:
    """All cells as [colour, pips, arrow, pixels, pixels, 3], drawn on 16 x 16 and enlarged by whole factors."""
    if pixels % 16:
        raise ValueError(f"cell_pixels must be a multiple of 16, got {pixels}")
    out = np.full((len(COLOURS), MAX_PIPS, len(ARROWS), 16, 16, 3), 25, np.uint8)
    for i, rgb in enumerate(COLOURS.values()):
        for edge in (np.s_[:2], np.s_[-2:]):
            out[i, :, :, edge, :] = rgb
            out[i, :, :, :, edge] = rgb
    for pips in range(1, MAX_PIPS + 1):
        for k in range(pips):  # a row of 2 x 2 squares along the bottom, two pixels apart
            x = 3 + 2 * k
            out[:, pips - 1, :, 11 + (k % 2) : 13 + (k % 2), x : x + 2] = (250, 250, 250)
    up = np.zeros((7, 7), bool)
    for r in range(4):
        up[r, 3 - r : 4 + r] = True
    up[4:, 2:5] = True
    for turns in range(4):  # up, right, down, left: quarter turns clockwise
        out[:, :, turns, 3:10, 4:11][..., np.rot90(up, -turns), :] = (200, 200, 200)
    return out.repeat(pixels // 16, axis=-3).repeat(pixels // 16, axis=-2)


def render(grid: Grid, cell_pixels: int = 16) -> npt.NDArray[np.uint8]:
    """Picture of a grid: [SIZE * cell_pixels, SIZE * cell_pixels, 3] uint8 RGB."""
    sprites = _sprites(cell_pixels)
    cells = sprites[np.array(grid.colour), np.array(grid.pips) - 1, np.array(grid.arrow)]
    side = SIZE * cell_pixels
    return np.ascontiguousarray(cells.transpose(0, 2, 1, 3, 4).reshape(side, side, 3))


def vocabulary() -> Sequence[str]:
    """Every word that a question or reply may contain, for tokenizers trained on this world."""
    cells = [name((r, c)) for r in range(SIZE) for c in range(SIZE)]
    numbers = [str(i) for i in range(MAX_PIPS * SIZE * 2)]
    questions = [
        *_POSITION_QUESTIONS.values(), *_COLOUR_QUESTIONS.values(), _WALK_QUESTION, *_FREE_WALK, *_DISTRACTIONS,
        *(q for free in (_FREE_POSITION, _FREE_COLOUR) for wordings in free.values() for q in wordings),
    ]  # fmt: skip
    words = " ".join([*questions, *_ORDINALS, "in the picture read row answer"])
    return [*cells, *numbers, *COLOURS, *ARROWS, *sorted({w.strip("{}?.,:") for w in words.split()} - {""})]
