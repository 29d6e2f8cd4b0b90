"""How long `vtpbench table` takes over many long logs, without its cache and with it.

    python scripts/bench_table.py --work /tmp/bench
    python scripts/bench_table.py --work /tmp/bench --cells 100 --samples 200 --json

Writes a results folder as a run would (10 models x 10 benchmarks x 10 methods, 1,000 samples each with replies of 400
tokens: 5 GB) unless it is there, then prints the leaderboard in fresh processes: `cold` with no cache, `warm` with the
one that `cold` left. Memory is the largest resident set of a process and, if it had helpers, of the largest of them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from harness.runs.log import digest
from harness.runs.scores import ScoreSpec, Scoring

SPEC = ScoreSpec(Scoring("mmmu.official", "letter.lenient", ("mean",)), False, "cut")
METHODS = (
    "none",
    "fastv",
    "sparsevlm",
    "pyramiddrop",
    "visionzip",
    "dart",
    "divprune",
    "stride",
    "random",
    "vispruner",
)
WORDS = ("the", "angle", "of", "triangle", "is", "equal", "to", "side", "so", "we", "get", "12", "degrees", "and", "AB")
LAYERS = 36
WATCHED = """
import json, resource, runpy, sys
sys.argv = json.loads(sys.argv[1])
try:
    runpy.run_module("harness", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
use = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
cpu = sum(u.ru_utime + u.ru_stime for u in use)
print(json.dumps([cpu, *(u.ru_maxrss / 2**20 for u in use)]), file=sys.stderr)
"""


def main() -> None:
    """Write the folder if need be, time both readings, print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the made results")
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args()
    results = arguments.work / f"{arguments.cells}x{arguments.samples}"
    if not (results / "complete").exists():
        write(results, arguments.cells, arguments.samples)
    size = sum(file.stat().st_size for file in (results / "runs").rglob("*.jsonl"))
    shutil.rmtree(results / "cache", ignore_errors=True)
    found = {"cells": arguments.cells, "samples": arguments.samples, "gigabytes": round(size / 1e9, 2)}
    found |= {"cold": measured(results), "warm": measured(results)}
    if arguments.json:
        print(json.dumps(found))
        return
    print(f"{arguments.cells} cells x {arguments.samples} samples, {found['gigabytes']} GB of logs")
    for name in ("cold", "warm"):
        run = found[name]
        took = f"{run['seconds']:.1f} s ({run['cpu_seconds']:.1f} s of CPU)"
        print(f"{name}: {took}, {run['peak_gib']:.2f} GiB, largest helper {run['helper_gib']:.2f} GiB")


def measured(results: Path) -> dict[str, float]:
    """Seconds and memory of `vtpbench table` in a process of its own."""
    command = ["vtpbench", "table", f"paths.results={results}"]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    start = time.perf_counter()
    with open(results / "table.txt", "w") as table:
        done = subprocess.run(
            [sys.executable, "-c", WATCHED, json.dumps(command)],
            stdout=table,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
        )
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(done.stderr)
    cpu, peak, helper = json.loads(done.stderr.splitlines()[-1])
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "peak_gib": round(peak, 3),
        "helper_gib": round(helper, 3),
    }


def write(results: Path, cells: int, samples: int) -> None:
    """A results folder of real lines: per model and benchmark every method answers the same questions."""
    rng = random.Random(0)
    for number in range(cells):
        model, benchmark = f"model_{number // 100}", f"benchmark_{number // 10 % 10}"
        method = METHODS[number % 10]
        keep = None if method == "none" else 1 / 3
        name = method if keep is None else f"{method}@{keep:.3g}"
        folder = results / "runs" / model / benchmark / name / f"greedy-{digest(number)[:8]}"
        (folder / "scores").mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(yaml.dump(config(model, benchmark, method, keep), Dumper=yaml.CSafeDumper))
        lines = [sample(i, keep or 1.0, rng) for i in range(samples)]
        log(folder / "samples-host-0.jsonl", lines)
        log(folder / "scores" / f"{SPEC.stem}-host-0.jsonl", [verdict(line, rng) for line in lines])
    (results / "complete").touch()


def log(path: Path, lines: list[dict[str, Any]]) -> None:
    """Lines as `harness.runs.log.Log` writes them."""
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def config(model: str, benchmark: str, method: str, keep: float | None) -> dict[str, Any]:
    """config.yaml of a cell, with every group that a run writes."""
    decoding = {
        "max_new_tokens": 4096, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0,
        "presence_penalty": 0.0, "stop": [], "seed": 0, "ignore_eos": False,
    }  # fmt: skip
    weights = {"path": f"org/{model}", "revision": None, "family": "qwen3_vl", "dtype": "bfloat16"}
    protocol = {"name": "vtp", "version": 1, "system": None}
    return {
        "model": {"name": model, **weights, "min_pixels": None, "max_pixels": None, "thinking": False},
        "pruner": {"name": method, "_target_": f"pruners.{method}", "layer": "2/32"},
        "addon": {"name": "none", "_target_": None},
        "benchmark": {"name": benchmark, "_target_": "harness.benchmarks.table.Table", "split": "test", "max": None},
        "protocol": {**protocol, **decoding, "scorer": "official", "assumed": [], "changed": []},
        "executor": {"name": "local", "kind": "local", "gpus": "all"},
        "logger": {"name": "none", "kind": "none", "mode": "offline", "project": "vtpbench"},
        "judge": {"name": "none", "kind": "none"},
        "keep": keep, "tokens": None, "limit": None, "subset": {"mode": "stratified", "seed": 0}, "repeats": 1,
        "shard": None, "seed": 0, "engine": {"slots": None, "feature_cache_mb": 512, "attention": "sdpa"},
        "paths": {"results": "results"}, "resume": "continue", "record": None, "fail_on_error": 0.05,
        "scoring": SPEC.plain(), "decoding": decoding, "data": {},
        "identity": {
            "model": weights | {"files": digest(model)[:16], "processor": digest(model)[16:32]},
            "pruner": {"method": f"pruners.{method}", "scope": "picture", "keep": keep, "layer": "2/32"},
            "protocol": protocol, "data": {"benchmark": benchmark, "content": digest(benchmark)},
            "decoding": decoding, "attention": "sdpa",
        },
    }  # fmt: skip


def sample(i: int, share: float, rng: random.Random) -> dict[str, Any]:
    """A line of the sample log; five questions share a picture."""
    tokens = rng.randrange(300, 500)
    kept = round(576 * share)
    return {
        "id": f"question-{i:06d}", "repeat": 0, "token_ids": [rng.randrange(151_000) for _ in range(tokens)],
        "text": " ".join(rng.choices(WORDS, k=tokens)), "finish": "length" if i % 50 == 0 else "stop",
        "thinking_tokens": 0, "answer_tokens": tokens, "text_tokens": 80, "visual_tokens": 576,
        "visual_per_layer": [576] * 2 + [kept] * (LAYERS - 2), "visible_per_step": [[kept + 0.5, tokens - 1]],
        "triggers": [], "ret_prefill": share + rng.random() / 100, "ret_decode": share, "kv": share,
        "flops": {
            "vision": 4_102_760_448_000, "prefill": 11_068_973_568_000, "decode": 24_751_104_000 * tokens,
            "overhead": 22_528_000,
        },
        "overhead": {"selection": 22_528_000, "monitor": 0, "recall": 0},
        "kv_bytes": {"visible": 94_158_720, "resident": 97_179_200, "allocated": 133_332_800},
        "prefill_seconds": 0.05 + rng.random() / 1000, "decode_seconds": 0.02 * tokens + rng.random() / 1000,
        "peak_memory": 17_179_869_184, "error": None, "evidence": None, "answer": rng.choice("ABCD"),
        "category": f"category-{i % 7}", "cluster": f"picture-{i // 5:05d}",
        "meta": {"question": "Which angle is equal to the angle at B?", "options": ["12", "30", "45", "60"]},
        "code": "18d3e334df4b",
    }  # fmt: skip


def verdict(line: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A line of the scores; some pictures are harder than others."""
    right = rng.random() < math.sin(int(line["cluster"][8:])) / 4 + 0.6
    return {
        "id": line["id"], "repeat": 0, "reply": digest(line["text"])[:16], "correct": right, "value": float(right),
        "extracted": "A", "rule": SPEC.scoring.rule, "unparsed": False, "lenient": float(right), "judge": [],
        "error": None,
    }  # fmt: skip


if __name__ == "__main__":
    main()
