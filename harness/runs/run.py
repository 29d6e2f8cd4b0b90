"""Running the cells of a plan, on whatever executes them."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from harness.runs.backend import Backend
from harness.runs.cell_run import CellFailed, CellRun, Grid, Steps
from harness.runs.cells import Cell
from harness.runs.errors import InputError, Stopped
from harness.runs.executors import Executor, Job, make_executor
from harness.runs.log import disk_full, write_atomically
from harness.runs.loggers import make_logger
from harness.runs.progress import Display
from harness.runs.selection import parse_shard


@dataclass(frozen=True)
class Outcome:
    """How a cell ended: with a summary, an error, or both."""

    cell: Cell
    summary: dict[str, Any] | None
    error: str | None = None

    @property
    def failed(self) -> bool:
        """Whether the command must not exit with 0."""
        rate = self.summary["failure_rate"] if self.summary else 0.0
        return self.error is not None or rate > self.cell.config.fail_on_error


def run_cells(cells: Sequence[Cell], backend: Backend, executor: Executor | None = None) -> list[Outcome]:
    """Run cells in their order, the next one as soon as there is room; a failing one does not stop the others.

    Raises:
        InputError: the results folder cannot be written to, or there is no such shard or device.
        Stopped: the disk is full.
    """
    config = cells[0].config
    results = Path(config.paths.results)
    check_writable(results)
    parse_shard(config.shard)
    executor, devices = (executor, []) if executor else make_executor(backend, config.executor)
    try:
        with Display([cell.name for cell in cells]) as display:
            grid = Grid(backend, devices, make_logger(config.logger, results), display)
            outcomes = {id(outcome.cell): outcome for outcome in _Cells(grid).run(cells, executor)}
    except OSError as error:
        if not disk_full(error):
            raise
        raise Stopped(f"no space left for {results}: make room, then the same command goes on from here") from None
    finally:
        executor.close()
    return [outcomes[id(cell)] for cell in cells]


def check_writable(results: Path) -> None:
    """Raise InputError unless files can be made in the results folder."""
    probe = results / "runs" / ".writable"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"results folder {results} is not writable: {error.strerror} (paths.results=...)") from None


class _Cells:
    """Hands the jobs of cells to an executor, and its traces to the cells."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.running: dict[Job, tuple[CellRun, Steps]] = {}
        self.ended: list[Outcome] = []

    def run(self, cells: Sequence[Cell], executor: Executor) -> Iterator[Outcome]:
        """How every cell ended, as they do."""
        try:
            for job, answer in executor.run(self._jobs(cells)):
                if job in self.running:
                    run, steps = self.running[job]
                    go = partial(steps.throw, answer) if isinstance(answer, Exception) else partial(steps.send, answer)
                    if self._advance(run, go) is None:
                        del self.running[job]
                        job.over = True
                yield from self._outcomes()
            yield from self._outcomes()
        finally:
            for _, steps in self.running.values():
                steps.close()

    def _jobs(self, cells: Sequence[Cell]) -> Iterator[Job]:
        for cell in cells:
            run = CellRun(cell, self.grid)
            steps = run.steps()
            if job := self._advance(run, partial(next, steps)):
                self.running[job] = run, steps
                yield job

    def _outcomes(self) -> Iterator[Outcome]:
        yield from self.ended
        self.ended.clear()

    def _advance(self, run: CellRun, step: Callable[[], Job]) -> Job | None:
        """Let a cell go on; its job, or None if it has ended."""
        cell, display = run.cell, self.grid.display
        try:
            return step()
        except StopIteration as stop:
            if stop.value is None:
                display.end(cell.name, "no sample has failed, nothing to do")
            else:
                display.finish(cell.name, stop.value)
            self.ended.append(Outcome(cell, stop.value))
        except Exception as error:
            if disk_full(error):  # no other cell could do better
                raise
            message = str(error) if isinstance(error, InputError | CellFailed) else f"{type(error).__name__}: {error}"
            if not isinstance(error, InputError | CellFailed) and cell.folder.is_dir():
                write_atomically(cell.folder / "error.txt", traceback.format_exc())
                message += f" (see {cell.folder / 'error.txt'})"
            display.fail(cell.name, message)
            self.ended.append(Outcome(cell, run.partial_summary(), message))
        return None
