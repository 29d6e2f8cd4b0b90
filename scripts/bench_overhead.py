"""What logging, progress, accounting and bookkeeping cost: the same `Engine.run` on the same walks, on and off.

    python scripts/bench_overhead.py --json [pruner=fastv ...]

On is a cell as `vtpbench run` runs it: sample log, scores, progress, and traces with FLOPs, bytes and evidence. Off
takes tokens alone: no request names regions, traces are bare, nothing is counted or written. What selection computes is
in both. Pictures are drawn before the clock starts; rounds alternate; printed are median seconds, and how much more on
takes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.engine.engine import Engine
from harness.engine.finish import Reply
from harness.engine.trace import Trace
from harness.runs.backend import TorchBackend
from harness.runs.cells import Resolver
from harness.runs.compose import Configs, compose_all
from harness.runs.executors import Job
from harness.runs.run import run_cells


def bare(_: Any, done: Any, __: Any, ids: list[int], finish: Any, *___: Any, **____: Any) -> Trace:
    """A trace of tokens alone."""
    return Trace(id=done.request.id, token_ids=ids, finish=finish)


class Timed:
    """An executor around one engine that stays; it notes how long a job took, its reader's work included."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.seconds, self.job = engine, 0.0, None
        self.tokens: dict[str, list[int]] = {}

    def run(self, job: Job) -> Iterator[Trace]:
        """Traces as they finish."""
        self.job = replace(job, requests=list(job.requests))
        self.tokens = {}
        began = time.perf_counter()
        for trace in self.engine.run(self.job.requests, job.pruner, job.decoding):
            self.tokens[trace.id] = trace.token_ids
            yield trace
        self.seconds = time.perf_counter() - began

    def close(self) -> None:
        """The engine stays."""


def main() -> None:
    """Print one line of JSON, or a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    asked, overrides = parser.parse_known_args()
    on, off = list[float](), list[float]()
    with tempfile.TemporaryDirectory() as folder:
        fixed = ["model=tiny_qwen3_vl", "benchmark=glyph_walk", f"limit={asked.samples}", "resume=fresh",
                 f"paths.results={folder}", "engine.feature_cache_mb=0"]  # fmt: skip
        backend = TorchBackend()
        (cell,) = Resolver(backend).plan(compose_all([*fixed, *overrides], Configs.find([]))).cells
        engine = backend.engine(cell.config.model, cell.config.engine, "cpu")
        assert isinstance(engine, Engine)
        timed = Timed(engine)
        for round_ in range(asked.rounds + 1):
            run_cells([cell], backend, timed)
            with_all, job = timed.tokens, timed.job
            assert job is not None
            quiet = replace(job, requests=[replace(request, needed=()) for request in job.requests])
            whole = timed.seconds
            with patch.object(Reply, "count_step", lambda *_: None), patch("harness.engine.run.make_trace", bare):
                for _ in timed.run(quiet):
                    pass
            assert timed.tokens == with_all and all(with_all.values()), "a sample failed"
            if round_:
                on.append(whole)
                off.append(timed.seconds)
    found = {"on": median(on), "off": median(off), "overhead": median(on) / median(off) - 1, "samples": asked.samples}
    found = {name: round(value, 4) for name, value in found.items()}
    print(json.dumps(found) if asked.json else "\n".join(f"{name:<10}{value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
