"""What a user sees on stderr while a grid runs: a bar on a terminal, else one line per cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from harness.benchmarks.scoring import unit
from harness.runs.trusted import shown


class _Rate(TextColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


class Display:
    """Progress of one grid, given the names of its cells in their order; `say` prints a line above the bars."""

    def __init__(self, cells: Sequence[str], console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        described = TextColumn("{task.description}", markup=False)  # brackets in a name are no markup
        columns = (described, BarColumn(), MofNCompleteColumn(), _Rate(""), TimeRemainingColumn())
        self._bar = Progress(*columns, "{task.fields[accuracy]}", console=self._console, transient=True,
                             disable=not self._console.is_terminal, speed_estimate_period=60)  # fmt: skip
        self._cells = list(cells)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Print one line."""
        self._console.print(shown(text), markup=False)

    def start(self, name: str, done: int, total: int) -> None:
        """A cell begins, `done` of its `total` samples known from an earlier run."""
        label = f"{self._place(name)} {name.split('/', 1)[1].rsplit('/', 1)[0]}"
        self._tasks[name] = self._bar.add_task(label, completed=done, total=total, accuracy="")

    def advance(self, name: str, accuracy: float | None) -> None:
        """One sample of a cell has finished."""
        self._bar.update(self._tasks[name], advance=1, accuracy=percent(accuracy))

    def finish(self, name: str, summary: dict[str, Any]) -> None:
        """A cell is done."""
        failures = f", {summary['failures']} failed" if summary["failures"] else ""
        metric, headline = next(iter(summary["metrics"].items()))
        said = [f"accuracy {percent(summary['accuracy'])}"]
        said += [f"{metric} {percent(headline['value'], unit(metric))}"] if metric != "mean" else []
        said += [f"n {summary['n']}{failures}"]
        said += [f"{summary['unjudged']} unjudged"] if summary["unjudged"] else []
        said += [headline["note"]] if headline["note"] and metric != "mean" else []
        self.end(name, "  ".join(said))

    def fail(self, name: str, error: str) -> None:
        """A cell could not be finished."""
        self.end(name, f"FAILED: {error}")

    def end(self, name: str, said: str | None = None) -> None:
        """The bar of a cell goes, a line may come instead."""
        if name in self._tasks:
            self._bar.remove_task(self._tasks.pop(name))
        if said is not None:
            self.say(f"{self._place(name)} {name}  {said}")

    def _place(self, name: str) -> str:
        return f"[{self._cells.index(name) + 1}/{len(self._cells)}]"


def percent(share: float | None, unit: str = "%") -> str:
    """A share 0..1 as text, or what else a hundred times a value counts."""
    return "-" if share is None else f"{100 * share:.1f} {unit}"
