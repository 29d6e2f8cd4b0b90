"""How much of a cell changes when nothing does: flips between repeats, and between batch shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, combinations_with_replacement, product
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from harness.runs.log import Key
from harness.tables import stats
from harness.tables.frames import TablesError

if TYPE_CHECKING:  # it would import torch
    from harness.runs.repeat import Reply, Run


@dataclass(frozen=True)
class Flips:
    """Runs with some slots against runs with others.

    Attributes:
        slots: of both; equal ones stand for repeats.
        pairs: of runs.
        samples: that replied in all runs.
        answers, texts: share of samples whose answer, or text at all, differs, mean over the pairs.
    """

    slots: tuple[int, int]
    pairs: int
    samples: int
    answers: stats.Estimate
    texts: stats.Estimate


def flips(runs: Sequence[Run], slots: Sequence[int], cluster: Mapping[str, str]) -> list[Flips]:
    """Between repeats with the same slots first, then between numbers of slots.

    Args:
        runs: equally many for each of the slots, in their order.
        cluster: of every sample, by id; intervals draw whole clusters.

    Raises:
        TablesError: no sample has a reply in all runs, or there is one run alone.
    """
    if len(runs) < 2:
        raise TablesError("one run has nothing to be compared with: n=2, or two numbers of slots")
    common = [key for key in runs[0] if all(key in run for run in runs)]
    if not common:
        raise TablesError("no sample has a reply in every run")
    n = len(runs) // len(slots)
    of = {number: runs[i * n : (i + 1) * n] for i, number in enumerate(slots)}
    names = [cluster[sample] for sample, _ in common]
    found = []
    for first, second in sorted(combinations_with_replacement(of, 2), key=lambda pair: pair[0] != pair[1]):
        pairs = list(combinations(of[first], 2) if first == second else product(of[first], of[second]))
        if pairs:
            answers, texts = (_share(pairs, common, names, part) for part in (_answer, _text))
            found.append(Flips((first, second), len(pairs), len(common), answers, texts))
    return found


def _answer(reply: Reply) -> object:
    return reply.answer


def _text(reply: Reply) -> object:
    return reply.text


def _share(
    pairs: Sequence[tuple[Run, Run]], keys: Sequence[Key], cluster: stats.Clusters, part: Callable[[Reply], object]
) -> stats.Estimate:
    differ = [[part(one[key]) != part(other[key]) for one, other in pairs] for key in keys]
    return stats.accuracy(np.array(differ, dtype=np.float64).mean(1), cluster)


def noise(found: Sequence[Flips]) -> float:
    """The noise floor: the largest share of flipped answers."""
    return max(row.answers.value for row in found)


def plain(found: Sequence[Flips]) -> list[dict[str, Any]]:
    """As repeat.json holds it."""
    return [asdict(row) for row in found]


def table(found: Sequence[Flips], title: str) -> Table:
    """For the terminal."""
    out = Table(title=title, title_justify="left", caption="95 % intervals: Wilson, or clusters drawn anew.")
    for head in ("runs compared", "pairs", "samples", "answers flipped %", "texts changed %"):
        out.add_column(head, justify="left" if head == "runs compared" else "right", no_wrap=True)
    for row in found:
        out.add_row(*_cells(row))
    return out


def _cells(row: Flips) -> Iterator[str]:
    first, second = row.slots
    yield f"repeats, {first} slots" if first == second else f"{first} against {second} slots"
    yield from (str(row.pairs), str(row.samples))
    for share in (row.answers, row.texts):
        yield "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * x for x in (share.value, share.low, share.high)))
