"""The stored replies of a cell beside the questions that they answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.benchmarks.base import Benchmark
from harness.benchmarks.errors import DataError
from harness.benchmarks.table import Entry, Table
from harness.runs.cells import make_benchmark
from harness.runs.config import Component
from harness.runs.errors import InputError
from harness.runs.log import read_config, read_log
from harness.runs.summary import Record
from harness.runs.trusted import check_targets

SURROGATES = re.compile("[\ud800-\udfff]")
"""Halves of characters, which no file in UTF-8 can hold."""


@dataclass(frozen=True)
class Answers:
    """A cell to export.

    Attributes:
        folder: of the cell.
        label: name of the model for other kits; no two cells share it.
        config: its config.yaml.
        table: its benchmark.
        records: first reply to each item, by its id.
        repeated: whether there are further replies.
    """

    folder: Path
    label: str
    config: Mapping[str, Any]
    table: Table
    records: Mapping[str, Record]
    repeated: bool

    @classmethod
    def read(cls, folder: Path, data: str | None) -> Answers:
        """Of a cell's folder; the benchmark is read from `data`, or from where the cell found it. Raises InputError."""
        config = read_config(folder)
        table = _table(folder, config, data)
        try:
            if table.content_hash() != config["identity"]["data"]["content"]:
                raise InputError(f"{folder}: the data are not those of the run; benchmark.data= says where those lie")
        except DataError as error:
            raise InputError(f"{folder}: {error}") from None
        log = read_log(folder)
        records = {sample: record for (sample, repeat), record in log.items() if repeat == 0}
        if not records:
            raise InputError(f"{folder}: no sample has been run")
        for entry in table.entries:
            name, now = entry.facts.id, entry.facts.answer
            if name in records and records[name]["answer"] != now:
                was = records[name]["answer"]
                raise InputError(
                    f"{folder}: the reference of {name} was {was!r} in the run, and is {now!r} in the data"
                )
        *_, method, cell = folder.resolve().parts
        label = re.sub(r"[^\w.@+-]+", "_", f"{config['model']['name']}_{method}_{cell}")
        return cls(folder, label, config, table, records, len(records) < len(log))

    @property
    def entries(self) -> list[Entry]:
        """All questions, in the order of the data."""
        return self.table.entries

    @property
    def notes(self) -> list[str]:
        """What holds for any kit."""
        return ["of several replies to a question the first, repeat 0"] if self.repeated else []


def _table(folder: Path, config: Mapping[str, Any], data: str | None) -> Table:
    benchmark = stored_benchmark(folder, config, data)
    if not isinstance(benchmark, Table):
        raise InputError(f"{folder}: no other kit has {config['benchmark']['name']}")
    return benchmark


def stored_benchmark(folder: Path, config: Mapping[str, Any], data: str | None = None) -> Benchmark:
    """The benchmark of a cell, read from `data`, or from where the cell found it. Raises InputError."""
    plain, commit = config["benchmark"], config.get("data", {}).get("commit")
    params = {key: value for key, value in plain.items() if key not in ("name", "_target_")}
    check_targets(plain, (), f"{folder}: benchmark")
    if data:
        params["data"] = data
    elif commit:  # what a name such as main meant in the run
        params["revision"] = commit
    return make_benchmark(Component(plain["name"], plain["_target_"], params))[0]
