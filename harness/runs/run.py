"""Running the cells of a plan: what is missing is generated, scored and logged; then every cell is summarised."""

from __future__ import annotations

import dataclasses
import json
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import yaml

from harness.benchmarks.base import Item
from harness.benchmarks.judge import Judge
from harness.engine.trace import Recorded, Request, Trace
from harness.runs.at_k import at_k
from harness.runs.backend import Backend
from harness.runs.cells import Cell, budget
from harness.runs.config import JudgeConfig
from harness.runs.environment import code_hash, environment
from harness.runs.errors import InputError
from harness.runs.executors import Executor, Job, find_devices, make_executor
from harness.runs.log import Key, Log, read_log, write_atomically
from harness.runs.loggers import Curves, Logger, make_logger
from harness.runs.progress import Display
from harness.runs.scores import Scorer, ScoreSpec, find_judge, measure, read_scored, score_spec
from harness.runs.selection import parse_shard, select
from harness.runs.summary import summarise
from pruners.none import Blind, NoPruning

BESIDE = (*get_args(Recorded), "evidence_runs")
"""Fields of a trace that its line leaves out."""


class CellFailed(RuntimeError):
    """A cell cannot go on; the grid does."""


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


@dataclass
class Grid:
    """What the cells of one command share."""

    backend: Backend
    executor: Executor
    devices: list[str]
    logger: Logger
    display: Display
    _chosen: dict[Any, dict[str, int]] = field(default_factory=dict)
    _judges: dict[JudgeConfig, Judge | None] = field(default_factory=dict)

    def judge(self, cell: Cell) -> Judge | None:
        """The judge of a cell's configuration."""
        config = cell.config.judge
        if config not in self._judges:
            self._judges[config] = find_judge(config, Path(cell.config.paths.results))
        return self._judges[config]

    def chosen(self, cell: Cell) -> dict[str, int]:
        """Index of each sample that the command asks for, by id; the same for all methods."""
        config = cell.config
        key = (id(cell.benchmark), config.limit, config.subset)
        if key not in self._chosen:
            items = cell.benchmark.outlines()
            self._chosen[key] = {items[i].id: i for i in select(items, config.limit, config.subset)}
        return self._chosen[key]


def run_cells(cells: Sequence[Cell], backend: Backend, executor: Executor | None = None) -> list[Outcome]:
    """Run cells one after the other; a failing one does not stop the others."""
    config = cells[0].config
    results = Path(config.paths.results)
    check_writable(results)
    parse_shard(config.shard)
    devices = find_devices(config.executor.gpus)
    executor = executor or make_executor(backend, devices)
    outcomes = []
    try:
        with Display(len(cells)) as display:
            grid = Grid(backend, executor, devices, make_logger(config.logger, results), display)
            for cell in cells:
                outcomes.append(_outcome(cell, grid))
    finally:
        executor.close()
    return outcomes


def check_writable(results: Path) -> None:
    """Raise InputError unless files can be made in the results folder."""
    probe = results / "runs" / ".writable"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"results folder {results} is not writable: {error.strerror} (paths.results=...)") from None


def _outcome(cell: Cell, grid: Grid) -> Outcome:
    run = CellRun(cell, grid)
    try:
        summary = run()
        grid.display.finish(cell.name, summary)
        return Outcome(cell, summary)
    except Exception as error:
        message = str(error) if isinstance(error, InputError | CellFailed) else f"{type(error).__name__}: {error}"
        if not isinstance(error, InputError | CellFailed) and cell.folder.is_dir():
            write_atomically(cell.folder / "error.txt", traceback.format_exc())
            message += f" (see {cell.folder / 'error.txt'})"
        grid.display.fail(cell.name, message)
        return Outcome(cell, run.partial_summary(), message)


class CellRun:
    """One cell from its folder to its summary."""

    def __init__(self, cell: Cell, grid: Grid) -> None:
        self.cell, self.grid, self.folder = cell, grid, cell.folder
        self.chosen = grid.chosen(cell)
        self.wanted = [(sample, repeat) for repeat in cell.config.draws for sample in self.chosen]
        self.records: dict[Key, dict[str, Any]] = {}
        self.judge = grid.judge(cell)
        self.spec = score_spec(cell, self.judge)

    def __call__(self) -> dict[str, Any]:
        """Generate what is missing; returns the summary."""
        cell, display = self.cell, self.grid.display
        self.folder.mkdir(parents=True, exist_ok=True)
        if cell.config.resume == "fresh":
            _clear(self.folder)
        versions = self.grid.backend.versions()
        self.code = code_hash(cell.pruner, versions)
        extra = cell.config.record
        log = Log(self.folder, "samples", display.say)
        beside = Log(self.folder, extra, display.say) if extra else None
        scorer = Scorer(self.folder, self.spec, self.judge, cell.config.judge.concurrency, display.say)
        try:
            self.records = read_log(self.folder)
            pending = self._pending(read_log(self.folder, extra) if extra else None)
            self._check_code(bool(pending))
            self._describe(versions, bool(pending))
            done = [self.records[key] for key in self.wanted if key in self.records]
            display.start(cell.name, len(done), len(done) + len(pending))
            self._generate(pending, done, log, beside, scorer)
            self.records = read_log(self.folder)  # with what other shards have written meanwhile
            scorer.complete(self.records[key] for key in self.wanted if key in self.records)
        finally:
            for file in (log, beside, scorer):
                if file:
                    file.close()
        if extra == "kept":
            self._export_kept()
        return self._summary()

    def _pending(self, beside: dict[Key, Any] | None) -> list[Key]:
        """This shard's samples that have no line yet (or nothing recorded beside, where that is asked for)."""
        shard, shards = parse_shard(self.cell.config.shard)
        done = self.records.keys() if beside is None else self.records.keys() & beside.keys()
        return [key for key in self.wanted[shard::shards] if key not in done]

    def _check_code(self, pending: bool) -> None:
        others = sorted({record["code"] for record in self.records.values()} - {self.code})
        if pending and others and self.cell.config.resume != "mixed":
            raise CellFailed(
                f"its samples were made by other code ({', '.join(others)}; now {self.code}; see environment.json): "
                "resume=fresh starts over, resume=mixed goes on"
            )

    def _describe(self, versions: dict[str, str], pending: bool) -> None:
        """Write config.yaml, and the environment of this code if it makes samples for the first time."""
        write_atomically(self.folder / "config.yaml", yaml.safe_dump(describe(self.cell, self.spec), sort_keys=False))
        file = self.folder / "environment.json"
        known = json.loads(file.read_text()) if file.exists() else {}
        if pending and self.code not in known:
            known[self.code] = environment(versions, ", ".join(self.grid.devices))
            write_atomically(file, json.dumps(known, indent=2) + "\n")

    def _generate(
        self, pending: list[Key], done: list[dict[str, Any]], log: Log, beside: Log | None, scorer: Scorer
    ) -> None:
        logger, curves, config = self.grid.logger, Curves(), self.cell.config

        def follow(record: dict[str, Any]) -> None:
            line = scorer.add(record)
            logger.sample(curves.add(record | {"value": line["value"] if line else None}))

        logger.start(self.cell, describe(self.cell, self.spec))
        try:
            for record in done:
                follow(record)
            items: dict[Key, Item] = {}
            job = Job(config.model, config.engine, self.cell.pruner, self.cell.decoding, config.record,
                      self._requests(pending, items))  # fmt: skip
            for trace in self.grid.executor.run(job) if pending else ():
                key = (trace.id, trace.repeat)
                if beside:
                    own = getattr(trace, str(config.record))
                    beside.append({"id": trace.id, "repeat": trace.repeat, str(config.record): own})
                record = self._record(trace, items.pop(key))
                log.append(record)
                self.records.setdefault(key, record)
                follow(record)
                self.grid.display.advance(curves.means().get("accuracy"))
        finally:
            logger.finish(self._summary())
        if missing := [key for key in pending if key not in self.records]:
            raise CellFailed(f"the engine gave no trace for {len(missing)} samples, the first is {missing[0][0]}")

    def _requests(self, pending: list[Key], items: dict[Key, Item]) -> Iterator[Request]:
        """Requests made when they are taken; their items wait in `items` for the score."""
        every, system = self.cell.benchmark.items(), self.cell.config.protocol.system
        before = () if system is None else (system,)
        for sample, repeat in pending:
            item = items[sample, repeat] = every[self.chosen[sample]]
            yield Request(item.id, item.content, (*before, *item.system), needed=item.needed, repeat=repeat)

    def _record(self, trace: Trace, item: Item) -> dict[str, Any]:
        record = {name: value for name, value in trace.record().items() if name not in BESIDE}
        benchmark, known = self.cell.benchmark, bool(item.needed) and trace.finish != "error"
        return record | {
            "evidence": benchmark.evidence(item, trace.text, trace.evidence_runs) if known else None,
            "answer": item.answer, "category": item.category, "cluster": item.cluster, "meta": item.meta,
            "code": self.code,
        }  # fmt: skip

    def _export_kept(self) -> None:
        """kept.jsonl: one line per sample in order, as `pruner=replay` reads it."""
        kept = read_log(self.folder, "kept")
        lines = [
            json.dumps(kept[key]) + "\n" for key in self.wanted if key in kept and key[1] == self.cell.config.draws[0]
        ]
        write_atomically(self.folder / "kept.jsonl", "".join(lines))

    def partial_summary(self) -> dict[str, Any] | None:
        """Of what there is, after a failure."""
        return self._summary() if self.records else None

    def _summary(self) -> dict[str, Any]:
        known = read_scored(self.folder, self.spec)
        done = [known[key] for key in self.wanted if key in known]
        summary = {"cell": self.cell.name} | summarise(done, *_nominal(self.cell)) | {
            "scoring": self.spec.stem, "metrics": measure(done, self.spec.scoring.metrics),
            "selected": len(self.wanted), "complete": len(done) == len(self.wanted),
            "codes": sorted({record["code"] for record in done}),
        }  # fmt: skip
        if (replies := len(self.cell.config.draws)) > 1:
            summary["repeated"] = at_k(done, replies)
        summary["failure_rate"] = summary["failures"] / len(done) if done else 0.0
        if first := next((record["error"] for record in done if record.get("error")), None):
            summary["first_error"] = first
        write_atomically(self.folder / "summary.json", json.dumps(summary, indent=2) + "\n")
        return summary


def _nominal(cell: Cell) -> tuple[float | None, int | None]:
    if isinstance(cell.pruner, NoPruning | Blind):
        return float(isinstance(cell.pruner, NoPruning)), None
    return budget(cell.pruner)


def describe(cell: Cell, spec: ScoreSpec) -> dict[str, Any]:
    """config.yaml: the configuration with what the cell made of it, and the identity."""
    config = dataclasses.asdict(cell.config)
    for group in ("pruner", "addon", "benchmark"):
        part = config[group]
        config[group] = {"name": part["name"], "_target_": part["target"], **part["params"]}
    config["keep"], config["tokens"] = budget(cell.pruner)
    config |= {
        "data": cell.benchmark.data_id(),
        "scoring": spec.plain(),
        "decoding": cell.identity["decoding"],
        "identity": cell.identity,
        "hash": cell.hash,
    }
    plain: dict[str, Any] = json.loads(json.dumps(config, default=str))
    return plain


def _clear(folder: Path) -> None:
    for pattern in (
        "samples-*.jsonl",
        "kept*.jsonl",
        "attention-*.jsonl",
        "summary.json",
        "repeat.json",
        "environment.json",
        "curves.csv",
        "error.txt",
        "scores/*.jsonl",
    ):
        for file in folder.glob(pattern):
            file.unlink()
