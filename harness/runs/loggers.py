"""Who follows a run besides the sample log: nobody, a CSV file, Weights & Biases."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import IO, Any, Protocol

from harness.runs.cells import Cell
from harness.runs.config import LoggerConfig
from harness.runs.summary import Record, failed, seconds, trace_length

LEADERBOARD = ("cell", "accuracy", "n", "failures", "ret_nominal", "ret_prefill", "ret_decode", "kv",
               "trace_length_median", "truncated", "unparsed", "tflops", "seconds")  # fmt: skip


class Follower(Protocol):
    """Told of the samples of one cell, also of those that an earlier run had finished."""

    def sample(self, curves: dict[str, float]) -> None:
        """Running means after one more sample."""

    def finish(self, summary: dict[str, Any]) -> None:
        """The cell has ended, complete or not."""


class Logger(Protocol):
    """Follows cells, some of them at the same time."""

    def start(self, cell: Cell, config: dict[str, Any]) -> Follower:
        """A cell begins."""


class Curves:
    """Running means over the samples of a cell."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self.samples = self.failures = 0

    def add(self, record: Record) -> dict[str, float]:
        """The means, with one more sample."""
        self.samples += 1
        self.failures += failed(record)
        values = {} if failed(record) else {
            "accuracy": record["value"], "trace_length": trace_length(record), "seconds": seconds(record),
            "tflops": sum(record["flops"].values()) / 1e12,
            **{name: record[name] for name in ("ret_prefill", "ret_decode", "kv")},
        }  # fmt: skip
        for name, value in values.items():
            if value is not None:
                self._sums[name] = self._sums.get(name, 0.0) + value
                self._counts[name] = self._counts.get(name, 0) + 1
        return {"samples": self.samples, "failures": self.failures, **self.means()}

    def means(self) -> dict[str, float]:
        """Means so far."""
        return {name: total / self._counts[name] for name, total in self._sums.items()}


class NoLogger:
    """Logs nothing."""

    def start(self, cell: Cell, config: dict[str, Any]) -> Follower:
        return self

    def sample(self, curves: dict[str, float]) -> None: ...
    def finish(self, summary: dict[str, Any]) -> None: ...


class CsvLogger:
    """Writes curves.csv into the folder of each cell."""

    def start(self, cell: Cell, config: dict[str, Any]) -> Follower:
        return _CsvCurves((cell.folder / "curves.csv").open("w", newline=""))


class _CsvCurves:
    means = ("accuracy", "ret_prefill", "ret_decode", "kv", "trace_length", "tflops", "seconds")

    def __init__(self, file: IO[str]) -> None:
        self._file, self._writer = file, csv.DictWriter(file, ("samples", "failures", *self.means))
        self._writer.writeheader()

    def sample(self, curves: dict[str, float]) -> None:
        self._writer.writerow(curves)
        self._file.flush()

    def finish(self, summary: dict[str, Any]) -> None:
        self._file.close()


class WandbLogger:
    """One Weights & Biases run per cell: config, running curves, summary, and the leaderboard of the cells so far.

    The run's id is the cell's identity, so that a resumed cell goes on in the same run.
    """

    def __init__(self, config: LoggerConfig, results: Path) -> None:
        self._config, self._results = config, results.resolve()
        self._rows: list[dict[str, Any]] = []

    def start(self, cell: Cell, config: dict[str, Any]) -> Follower:
        for name in ("DATA", "CACHE"):
            os.environ.setdefault(f"WANDB_{name}_DIR", str(self._results / "wandb"))
        import wandb

        chosen = self._config
        (self._results / "wandb").mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            project=chosen.project, entity=chosen.entity, group=chosen.group or cell.config.experiment,
            mode=chosen.mode, dir=self._results, id=cell.hash[:16], name=cell.name, config=config,
            resume="allow" if chosen.mode == "online" else None, reinit="create_new",
            settings=wandb.Settings(silent=True, console="off", disable_code=True),
        )  # fmt: skip
        return _WandbRun(run, self._rows)


class _WandbRun:
    def __init__(self, run: Any, rows: list[dict[str, Any]]) -> None:
        self._run, self._rows = run, rows

    def sample(self, curves: dict[str, float]) -> None:
        self._run.log(curves, step=int(curves["samples"]))

    def finish(self, summary: dict[str, Any]) -> None:
        import wandb

        self._rows.append(summary | {"tflops": sum(filter(None, summary["flops"].values())) / 1e12})
        table = [[row[column] for column in LEADERBOARD] for row in self._rows]
        self._run.log({"leaderboard": wandb.Table(columns=list(LEADERBOARD), data=table)})
        self._run.summary.update(summary)
        self._run.finish()


def make_logger(config: LoggerConfig, results: Path) -> Logger:
    """The logger that a configuration names."""
    if config.kind == "wandb":
        return WandbLogger(config, results)
    return CsvLogger() if config.kind == "csv" else NoLogger()
