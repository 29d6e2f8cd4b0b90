"""Grids run against a fake engine, through the seam `Backend`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.runs.cells import Cell, Plan, Resolver
from harness.runs.compose import Configs, compose_all
from harness.runs.run import Outcome, run_cells
from tests.runs.fake import FakeBackend

Planner = Callable[..., Plan]


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def plan(backend: FakeBackend, tmp_path: Path) -> Planner:
    """Cells of a command line, with results below tmp_path and small test sets."""

    def make(*overrides: str) -> Plan:
        arguments = [f"paths.results={tmp_path / 'out'}", "executor.gpus=none", "benchmark.size=40", *overrides]
        return Resolver(backend).plan(compose_all(arguments, Configs.find()))

    return make


@pytest.fixture
def run(plan: Planner, backend: FakeBackend) -> Callable[..., list[Outcome]]:
    """Outcomes of a command line."""

    def make(*overrides: str, **options: Any) -> list[Outcome]:
        return run_cells(plan(*overrides).cells, backend, **options)

    return make


@pytest.fixture
def cell(plan: Planner) -> Callable[..., Cell]:
    """The only cell of a command line."""

    def make(*overrides: str) -> Cell:
        (found,) = plan(*overrides).cells
        return found

    return make
