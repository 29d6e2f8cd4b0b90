"""What logging, progress, accounting and bookkeeping cost: the same `Engine.run` on the same walks, on and off.

    python scripts/bench_overhead.py --json [pruner=fastv ...]

On is a cell as `vtpbench run` runs it: sample log, scores, progress, and traces with FLOPs and bytes; as in every real
benchmark no request names the regions that its answer needs. Evidence is the same with them, as synthetic benchmarks
have it. Off takes replies alone: traces are bare, nothing is counted or written. What selection computes is in all.
Pictures are drawn before the clock starts; the ways take turns, in another order every round. Printed are median
seconds, the mean of the least disturbed quarter of the rounds, and how much more than off each way takes by either.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.engine.engine import Engine
from harness.engine.finish import Reply, reply_text
from harness.engine.trace import Trace
from harness.runs.backend import TorchBackend
from harness.runs.cells import Resolver
from harness.runs.compose import Configs, compose_all
from harness.runs.executors import Answer, Job
from harness.runs.run import run_cells

WAYS = ("off", "on", "evidence")


def bare(model: Any, done: Any, _: Any, ids: list[int], finish: Any, decoding: Any, **__: Any) -> Trace:
    """A trace of the reply alone."""
    return Trace(id=done.request.id, token_ids=ids, text=reply_text(model, ids, decoding), finish=finish)


class Timed:
    """An executor around one engine that stays; it notes how long a job took, its reader's work included."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.seconds, self.evidence = engine, 0.0, True
        self.job: Job | None = None
        self.tokens: dict[str, list[int]] = {}

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Answer]]:
        """Traces as they finish."""
        for job in jobs:
            yield from ((job, trace) for trace in self.traces(job))
            yield job, None

    def traces(self, job: Job) -> Iterator[Trace]:
        """Those of one job."""
        requests = [request if self.evidence else replace(request, needed=()) for request in job.requests]
        self.job = replace(job, requests=requests)
        self.tokens = {}
        began = time.perf_counter()
        for trace in self.engine.run(requests, job.pruner, job.decoding):
            self.tokens[trace.id] = trace.token_ids
            yield trace
        self.seconds = time.perf_counter() - began

    def close(self) -> None:
        """The engine stays."""


def main() -> None:
    """Print one line of JSON, or a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    asked, overrides = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        fixed = ["model=tiny_qwen3_vl", "benchmark=glyph_walk", f"limit={asked.samples}", "resume=fresh",
                 f"paths.results={folder}", "engine.feature_cache_mb=0"]  # fmt: skip
        backend = TorchBackend()
        (cell,) = Resolver(backend).plan(compose_all([*fixed, *overrides], Configs.find([]))).cells
        engine = backend.engine(cell.config.model, cell.config.engine, "cpu")
        assert isinstance(engine, Engine)
        timed = Timed(engine)
        run_cells([cell], backend, timed)
        first, job = timed.tokens, timed.job
        assert job is not None and all(first.values()), "a sample failed"

        def run(way: str) -> None:
            timed.evidence = way == "evidence"
            if way != "off":
                run_cells([cell], backend, timed)
                return
            with patch.object(Reply, "count_step", lambda *_: None), patch("harness.engine.run.make_trace", bare):
                for _ in timed.traces(job):
                    pass

        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        order, draw = list(WAYS), random.Random(0)
        for _ in range(asked.rounds):
            draw.shuffle(order)
            for name in order:
                run(name)
                assert timed.tokens == first
                seconds[name].append(timed.seconds)
    found: dict[str, float] = {"samples": asked.samples, "rounds": asked.rounds}
    for how, by in (("median", median), ("least", lambda took: mean(sorted(took)[: max(1, len(took) // 4)]))):
        took = {way: by(seconds[way]) for way in WAYS}
        found |= {f"{way}_{how}": took[way] for way in WAYS}
        found |= {f"{way}_more_{how}": took[way] / took["off"] - 1 for way in WAYS if way != "off"}
    found = {name: round(value, 4) for name, value in found.items()}
    print(json.dumps(found) if asked.json else "\n".join(f"{name:<22}{value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
