"""What a user sees on stderr while a grid runs: a bar on a terminal, else one line per cell."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Rate(TextColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


class Display:
    """Progress of one grid; `say` prints a line above the bar."""

    def __init__(self, cells: int, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), _Rate(""), TimeRemainingColumn())
        self._bar = Progress(*columns, "{task.fields[accuracy]}", console=self._console, transient=True,
                             disable=not self._console.is_terminal, speed_estimate_period=60)  # fmt: skip
        self._cells, self._number = cells, 0
        self._task = self._bar.add_task("", total=None, accuracy="")

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Print one line."""
        self._console.print(text, markup=False)

    def start(self, name: str, done: int, total: int) -> None:
        """A cell begins, `done` of its `total` samples known from an earlier run."""
        self._number += 1
        label = f"{self._place()} {name.split('/', 1)[1].rsplit('/', 1)[0]}"
        self._bar.reset(self._task, description=label, completed=done, total=total, accuracy="")

    def advance(self, accuracy: float | None) -> None:
        """One sample has finished."""
        self._bar.update(self._task, advance=1, accuracy=percent(accuracy))

    def finish(self, name: str, summary: dict[str, Any]) -> None:
        """A cell is done."""
        failures = f", {summary['failures']} failed" if summary["failures"] else ""
        metric, headline = next(iter(summary["metrics"].items()))
        said = [f"accuracy {percent(summary['accuracy'])}"]
        said += [f"{metric} {percent(headline['value'])}"] if metric != "mean" else []
        said += [f"n {summary['n']}{failures}"]
        said += [f"{summary['unjudged']} unjudged"] if summary["unjudged"] else []
        said += [headline["note"]] if headline["note"] and metric != "mean" else []
        self.say(f"{self._place()} {name}  {'  '.join(said)}")

    def pass_over(self, name: str, why: str) -> None:
        """Nothing is to be done for a cell."""
        self._number += 1
        self.say(f"{self._place()} {name}  {why}")

    def fail(self, name: str, error: str) -> None:
        """A cell could not be finished."""
        self.say(f"{self._place()} {name}  FAILED: {error}")

    def _place(self) -> str:
        return f"[{self._number}/{self._cells}]"


def percent(share: float | None) -> str:
    """A share 0..1 as text."""
    return "-" if share is None else f"{100 * share:.1f} %"
