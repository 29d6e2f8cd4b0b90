"""Tables of what a real grid writes (its engine replaced), held against the summaries that it writes itself."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from harness.engine.trace import Decoding, Recorded, Request, Trace
from harness.runs.cells import Resolver
from harness.runs.compose import Configs, compose_all
from harness.runs.config import EngineConfig, ModelConfig
from harness.runs.run import run_cells
from harness.tables import leaderboard
from pruners.base import Pruner
from pruners.views import ModelInfo

SAME = {
    **{
        name: name for name in ("accuracy", "n", "unparsed", "truncated", "ret_nominal", "ret_prefill", "kv", "seconds")
    },
    "failed": "failures",
    "trace_length": "trace_length_median",
}


class Parrot:
    """Says the same digit to every question; the fourth sample fails."""

    def run(
        self, requests: Iterable[Request], pruner: Pruner, decoding: Decoding, *, record: Recorded | None = None
    ) -> Iterator[Trace]:
        for i, request in enumerate(requests):
            if i == 3:
                yield Trace(id=request.id, finish="error", error="OSError: damaged picture")
            else:
                yield Trace(id=request.id, text="3", answer_tokens=i, visual_tokens=64, ret_prefill=0.5, kv=0.5)


class Stub:
    """A backend without a model."""

    def info(self, model: ModelConfig) -> ModelInfo:
        return ModelInfo(name=model.name, depth=4, tower_depth=2, unit=4)

    def files(self, model: ModelConfig) -> dict[str, str]:
        return {"files": "weights", "processor": "processor"}

    def versions(self) -> dict[str, str]:
        return {}

    def engine(self, model: ModelConfig, config: EngineConfig, device: str) -> Parrot:
        return Parrot()


def test_a_grid_prints_and_agrees_with_its_summaries(tmp_path: Path) -> None:
    command = ["pruner=none,blind,fastv", "keep=1/3,1/9", "benchmark=glyph_lookup", "limit=12", "executor.gpus=none"]
    plan = Resolver(Stub()).plan(compose_all([*command, f"paths.results={tmp_path}"], Configs.find()))
    assert all(outcome.error is None for outcome in run_cells(plan.cells, Stub()))
    frame = leaderboard(tmp_path).frame
    assert list(frame.label) == ["none", "fastv", "fastv", "blind"]
    assert list(frame.keep.dropna()) == pytest.approx([1 / 3, 1 / 9])
    assert list(frame.pairs.dropna()) == [11, 11, 11]
    for row in frame.to_dict("records"):
        summary = json.loads((tmp_path / "runs" / row["cell"] / "summary.json").read_text())
        assert {ours: row[ours] for ours in SAME} == pytest.approx({ours: summary[name] for ours, name in SAME.items()})
