"""What an analysis is: a measurement, its figure, and what it says about papers' findings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from harness.runs.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from harness.runs.backend import Backend
    from harness.runs.compose import Configs


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What an analysis is asked for.

    Attributes:
        results: folder of stored runs.
        models, benchmarks: names or globs to keep; empty keeps all. Analyses that run models take these names.
        layer: whose attention is read; None takes the one that DSTP watches on top of a method before layer 0.
        limit: samples of analyses that run models themselves; None takes their own number.
        kinds: of maps; empty takes all.
    """

    results: Path
    models: tuple[str, ...] = ()
    benchmarks: tuple[str, ...] = ()
    layer: int | None = None
    limit: int | None = None
    kinds: tuple[str, ...] = ()
    configs: Configs = field(repr=False)
    backend: Backend = field(repr=False)

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit must be at least 1, got {self.limit}")


@dataclass(frozen=True)
class Finding:
    """What a paper claims and what is seen here. `holds` is None where the question does not arise."""

    paper: str
    claim: str
    model: str
    holds: bool | None
    numbers: str


@dataclass(frozen=True)
class Kind:
    """One analysis; figure and findings are made from its table alone, as it is read from its CSV.

    Attributes:
        name: of the analysis and of its files.
        shows: one sentence below the figure: what is drawn, of which samples, after which figure of which paper.
        measure: its tidy table. Raises InputError where the runs that it needs are not there.
        stored: whether it reads stored runs.
        notes: why a finding does not show, as far as it is known; text without numbers.
    """

    name: str
    shows: str
    measure: Callable[[Ask], DataFrame]
    draw: Callable[[DataFrame], Figure]
    findings: Callable[[DataFrame], list[Finding]]
    notes: str = ""
    stored: bool = True
