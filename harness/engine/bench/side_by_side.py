"""Methods beside the unpruned model, in one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from harness.engine.bench.machine import describe, name_of
from harness.engine.bench.measure import Measured, Setting, measure
from harness.engine.bench.table import Table
from harness.models.base import Model
from pruners.base import Pruner, PrunerError
from pruners.none import NoPruning

FULL = "none"


def side_by_side(
    model: Model, methods: Mapping[str, Pruner], setting: Setting, *, name: str = "", weights: str = "random",
    compiled: bool | None = None, rounds: int = 3, largest: bool = False,
    done: Callable[[Table], None] = lambda _: None,
) -> Table:  # fmt: skip
    """Measure the unpruned model and then each method; those that cannot act on the model are named with the reason.

    Args:
        name: of the model, for the title. weights: what its weights are.
        compiled, rounds, largest: see `measure`.
        done: told after every method, so that nothing is lost if the next one does not come back.
    """
    device = str(model.device)
    table = Table(
        name or model.info.name, name_of(device), describe(device), weights, model.dtype.itemsize == 2,
        list[Measured](), {},
    )  # fmt: skip
    for label, pruner in {FULL: NoPruning(), **methods}.items():
        try:
            found = measure(model, pruner, setting, label, compiled=compiled, rounds=rounds, largest=largest)
        except PrunerError as error:
            table.left[label] = str(error)
            continue
        table.found.append(found)
        done(table)
    return table
