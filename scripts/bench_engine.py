"""Our engine against transformers' `generate`, in samples per second, on walks of their natural lengths.

    python scripts/bench_engine.py --json

Both have the tiny Qwen3-VL, sdpa, a KV cache, the same type and threads, and make their inputs with the same code
within the time that is measured. Rounds alternate between all of them; printed are medians. `generate_batch16` pads on
the left and goes on until the longest reply of a batch has ended; `generate_static` is one sample at a time with a
static cache and a compiled step.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.benchmarks.glyph_tasks import Glyphs
from harness.engine import Decoding, Engine, Request
from harness.models import Model, load_model
from pruners import NoPruning

NEW = 96
Replies = list[list[int]]


def ours(model: Model, requests: Sequence[Request], slots: int, compiled: bool) -> Replies:
    """Replies of our engine; no vision features are kept from the round before."""
    engine = Engine(model, slots=slots, feature_cache_mb=0, compiled=compiled)
    traces = engine.run(requests, NoPruning(), Decoding(max_new_tokens=NEW))
    by_id = {trace.id: trace.token_ids for trace in traces}
    return [by_id[request.id] for request in requests]


def theirs(net: Any, model: Model, requests: Sequence[Request], batch: int, **options: Any) -> Replies:
    """Replies of `generate`, in batches padded on the left, up to their first stop token."""
    out: Replies = []
    for i in range(0, len(requests), batch):
        prompts = [model.prepare(request) for request in requests[i : i + batch]]
        width = max(len(prompt.ids) for prompt in prompts)
        ids = torch.full((len(prompts), width), net.generation_config.pad_token_id)
        for row, prompt in zip(ids, prompts, strict=True):
            row[width - len(prompt.ids) :] = prompt.ids
        mask = torch.arange(width) >= torch.tensor([[width - len(prompt.ids)] for prompt in prompts])
        pictures = [picture for prompt in prompts for picture in prompt.pictures]
        made = net.generate(
            input_ids=ids, attention_mask=mask.long(), pixel_values=torch.cat([p.pixels for p in pictures]),
            image_grid_thw=torch.tensor([[1, *p.grid] for p in pictures]),
            mm_token_type_ids=(ids == net.config.image_token_id).int(), max_new_tokens=NEW, do_sample=False, **options,
        )  # fmt: skip
        out += [ended(row, model.stop_ids) for row in made[:, width:].tolist()]
    return out


def ended(tokens: list[int], stops: Any) -> list[int]:
    """Up to the first stop token, with it."""
    return tokens[: next((i + 1 for i, token in enumerate(tokens) if token in stops), len(tokens))]


def measure(runs: dict[str, Callable[[], Replies]], rounds: int) -> tuple[dict[str, float], dict[str, Replies]]:
    """Median samples per second of alternating rounds after one to warm up, and the replies."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    replies = {name: run() for name, run in runs.items()}
    for _ in range(rounds):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    return {name: len(replies[name]) / median(times) for name, times in seconds.items()}, replies


def main() -> None:
    """Print one line of JSON, or a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    asked = parser.parse_args()
    from transformers import CompileConfig, Qwen3VLForConditionalGeneration  # after harness.compat

    model = load_model("builtin:qwen3_vl", family="qwen3_vl")
    folder = Path(__file__).resolve().parents[1] / "harness" / "tiny" / "qwen3_vl"
    net: Any = Qwen3VLForConditionalGeneration.from_pretrained(folder, attn_implementation="sdpa").eval()
    items = [Glyphs(task="walk").items()[i] for i in range(asked.samples)]
    requests = [Request(item.id, item.content) for item in items]
    compiled = CompileConfig()
    compiled._compile_all_devices = True  # else compiled on a GPU alone
    static = {
        "cache_implementation": "static", "compile_config": compiled
    }  # fmt: skip
    speed, replies = measure(
        {
            "engine_slots1": partial(ours, model, requests, 1, compiled=True),
            "engine_slots16": partial(ours, model, requests, 16, compiled=True),
            "engine_eager16": partial(ours, model, requests, 16, compiled=False),
            "generate_single": partial(theirs, net, model, requests, 1),
            "generate_batch16": partial(theirs, net, model, requests, 16),
            "generate_static": partial(theirs, net, model, requests, 1, **static),
        },
        asked.rounds,
    )
    lengths = [len(reply) for reply in replies["generate_single"]]
    found = {name: round(value, 2) for name, value in speed.items()} | {
        "ratio_single": round(speed["engine_slots16"] / speed["generate_single"], 2),
        "ratio_batch16": round(speed["engine_slots16"] / speed["generate_batch16"], 2),
        "tokens_equal": all(reply == replies["generate_single"] for reply in replies.values()),
        "length_mean": round(mean(lengths), 2), "length_max": max(lengths), "threads": torch.get_num_threads(),
    }  # fmt: skip
    print(json.dumps(found) if asked.json else "\n".join(f"{name:<18}{value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
