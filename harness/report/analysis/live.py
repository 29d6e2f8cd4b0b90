"""What analyses share that run models themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, cast

from harness.benchmarks.base import Item
from harness.engine import Request
from harness.report.analysis.kind import Ask
from harness.runs.cells import Cell, Resolver
from harness.runs.compose import compose_all
from harness.runs.errors import InputError
from harness.runs.executors import find_devices
from harness.runs.selection import select

if TYPE_CHECKING:
    from harness.engine import Engine

TINY = ("tiny_qwen3_vl", "tiny_internvl", "tiny_llava")
"""Models of an analysis that is not given any."""
GLYPHS = ("glyph_lookup", "glyph_walk")
"""Its benchmarks."""


def model_names(ask: Ask) -> list[str]:
    """Models to run.

    Raises:
        InputError: no model has such a name.
    """
    known = ask.configs.options("model")
    found = [name for name in known if any(fnmatchcase(name, wanted) for wanted in ask.models or TINY)]
    if not found:
        raise InputError(f"no model is called {', '.join(ask.models)}; known: {', '.join(known)}")
    return found


def cells(ask: Ask, model: str, grids: Sequence[Sequence[str]]) -> list[Cell]:
    """The cells of these overrides for one model, less those that make no sense.

    Raises:
        InputError: none is left.
    """
    shared = [f"model={model}", f"benchmark={','.join(ask.benchmarks or GLYPHS)}"]
    composed = [item for grid in grids for item in compose_all([*shared, *grid], ask.configs)]
    return Resolver(ask.backend).plan(composed).cells


def load(ask: Ask, cell: Cell) -> Engine:
    """The engine of a cell's model."""
    device = find_devices(cell.config.executor.gpus)[0]
    return cast("Engine", ask.backend.engine(cell.config.model, cell.config.engine, device))


def asked(cell: Cell, limit: int) -> Iterator[tuple[Item, Request]]:
    """Items and requests of the samples that a run with this limit takes."""
    every, system = cell.benchmark.items(), cell.config.protocol.system
    before = () if system is None else (system,)
    for i in select(cell.benchmark.outlines(), limit, cell.config.subset):
        item = every[i]
        yield item, Request(item.id, item.content, (*before, *item.system), item.needed)
