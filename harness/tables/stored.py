"""Cells found again: which folder of a results folder holds what a configuration describes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from harness.runs.config import Component, RunConfig
from harness.runs.log import read_config
from harness.runs.scores import ScoreSpec, iter_scored
from harness.tables.columns import Row
from harness.tables.frames import load


@dataclass(frozen=True)
class Stored:
    """The cells of a results folder, and their samples."""

    results: Path
    cells: pd.DataFrame
    samples: dict[str, pd.DataFrame]

    @classmethod
    def read(cls, results: Path, models: Sequence[str]) -> Stored:
        """Cells of some models; none is no error, since what was not run is listed as such."""
        there = [name for name in models if any((results / "runs" / name).glob("*/*/*/config.yaml"))]
        if not there:
            return cls(results, pd.DataFrame(), {})
        cells, samples = load(results, there)
        done = samples[~samples.failed]
        return cls(results, cells, {str(name): part for name, part in done.groupby("cell", observed=True)})

    def named(self, overrides: Mapping[str, str]) -> bool:
        """Whether any cell has the model, benchmark, method and add-on that overrides name."""
        names = [overrides.get(key, "none") for key in ("model", "benchmark", "pruner", "addon")]
        return tuple(names) in self._names

    @cached_property
    def _names(self) -> set[tuple[str, ...]]:
        keys = ["model", "benchmark", "method", "addon"]
        return set(self.cells[keys].itertuples(index=False, name=None)) if len(self.cells) else set()

    def records(self, cell: str) -> list[dict[str, Any]]:
        """The scored samples of a cell as they are logged."""
        folder = self.results / "runs" / cell
        return [line for _, line in iter_scored(folder, ScoreSpec.read(folder))]

    @cached_property
    def _configs(self) -> dict[str, dict[str, Any]]:
        return {cell: read_config(self.results / "runs" / cell) for cell in self.cells.cell}

    def find(self, config: RunConfig) -> Row | None:
        """The cell that a configuration describes, with `changed`: keys in which the run is not what it asks for.

        Of several the one with fewest such keys, then with most samples. Where data and weights lie does not matter.
        """
        rows: list[Row] = self.cells.to_dict("records")  # type: ignore[assignment]
        found = [row | {"changed": self._changes(row, config)} for row in rows if row["n"] and self._fits(row, config)]
        return max(found, key=lambda row: (-len(row["changed"]), row["n"]), default=None)

    def _changes(self, row: Row, config: RunConfig) -> list[str]:
        kept = self._configs[row["cell"]]
        protocol = {key: value for key, value in asdict(config.protocol).items() if key not in ("assumed", "changed")}
        asked = {"model": config.model.options, "protocol": protocol, "benchmark": config.benchmark.params}
        return [
            f"{part}.{key}"
            for part, values in asked.items()
            for key, value in json.loads(json.dumps(values, default=str)).items()
            if key not in ("data", "revision") and kept[part].get(key) != value
        ]

    def _fits(self, row: Row, config: RunConfig) -> bool:
        protocol = f"{config.protocol.name}/{config.protocol.version}"
        if (row["model"], row["benchmark"], row["protocol"].rstrip("*")) != (
            config.model.name, config.benchmark.name, protocol,
        ):  # fmt: skip
            return False
        kept = self._configs[row["cell"]]
        budgets = all(kept[name] is None or kept[name] == getattr(config, name) for name in ("keep", "tokens"))
        return budgets and all(
            {key: value for key, value in kept[part].items() if key != "name"} == _plain(getattr(config, part))
            for part in ("pruner", "addon")
        )

    def full(self, row: Row) -> Row | None:
        """The full model under the setting of a cell."""
        rows: list[Row] = self.cells.to_dict("records")  # type: ignore[assignment]
        found = [
            other for other in rows
            if other["method"] == "none" and other["setting"] == row["setting"] and other["cell"] in self.samples
        ]  # fmt: skip
        return max(found, key=lambda other: int(other["n"]), default=None)


def _plain(part: Component) -> dict[str, Any]:
    """A component as config.yaml holds it."""
    plain: dict[str, Any] = json.loads(json.dumps({"_target_": part.target, **part.params}, default=str))
    return plain
