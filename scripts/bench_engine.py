"""Our engine against transformers' `generate`, in samples per second, on walks of their natural lengths.

    python scripts/bench_engine.py --json

Both have the tiny Qwen3-VL, sdpa, a KV cache, the same type and threads, and make their inputs with the same code
within the time that is measured. Rounds alternate between all of them; printed are medians. Ours runs compiled steps
(`engine_eager16`: it does not), as `generate_static` does. `generate_batch16` pads on the left and goes on until the
longest reply of a batch has ended; `generate_static` is one sample at a time with a static cache and a compiled step.
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
from harness.engine.bench.machine import describe
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


RUNS = {
    "engine_slots1": "our engine, one slot, compiled step",
    "engine_slots16": "our engine, 16 slots, compiled step",
    "engine_eager16": "our engine, 16 slots, as it is without `engine.compiled=true`",
    "generate_single": "`generate`, one sample at a time",
    "generate_batch16": "`generate`, batches of 16 padded on the left",
    "generate_static": "`generate`, one at a time, static cache, compiled step",
}


def measure(runs: dict[str, Callable[[], Replies]], rounds: int) -> tuple[dict[str, list[float]], dict[str, Replies]]:
    """Samples per second of alternating rounds after one to warm up, and the replies."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    replies = {name: run() for name, run in runs.items()}
    for _ in range(rounds):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    return {name: sorted(len(replies[name]) / t for t in times) for name, times in seconds.items()}, replies


def page(found: dict[str, Any], rounds: dict[str, list[float]]) -> str:
    """What was found, as results/efficiency/cpu.md shows it."""
    eager = {name: found["engine_eager16"] / found[name] for name in ("generate_single", "generate_batch16")}
    lines = [
        "# Our engine against `generate` on a CPU\n",
        f"{describe('cpu')}; torch threads: {found['threads']}. Made by `scripts/bench_engine.py --out`: "
        f"{found['samples']} walks through the glyph world on the tiny Qwen3-VL, float32, replies of their natural "
        f"lengths (mean {found['length_mean']}, longest {found['length_max']} tokens), all inputs made within the time "
        f"measured, {len(rounds['generate_single'])} alternating rounds after one to warm up (which compiles). Tokens "
        f"of all six are {'equal' if found['tokens_equal'] else 'NOT EQUAL'}.\n",
        "| | samples a second, median | lowest to highest |\n|---|---|---|",
        *(f"| {RUNS[name]} | {found[name]} | {low:.1f} to {high:.1f} |" for name, (low, *_, high) in rounds.items()),
        "\n| 16 slots against | compiled | as it is | wanted |\n|---|---|---|---|",
        f"| one sample at a time | {found['ratio_single']} x | {eager['generate_single']:.2f} x | 12 x |",
        f"| padded batches of 16 | {found['ratio_batch16']} x | {eager['generate_batch16']:.2f} x | 1.5 x |\n",
        "Both sides may use the same number of torch threads. Ours takes the second one for pictures, towers and "
        "prefill of the next samples while it decodes.\n",
    ]
    return "\n".join(lines)


def main() -> None:
    """Print one line of JSON, or a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--out", type=Path, help="write a page of Markdown besides")
    asked = parser.parse_args()
    from transformers import CompileConfig, Qwen3VLForConditionalGeneration  # after harness.compat

    model = load_model("builtin:qwen3_vl", family="qwen3_vl")
    folder = Path(__file__).resolve().parents[1] / "harness" / "tiny" / "qwen3_vl"
    net: Any = Qwen3VLForConditionalGeneration.from_pretrained(folder, attn_implementation="sdpa").eval()
    items = [Glyphs(task="walk").items()[i] for i in range(asked.samples)]
    requests = [Request(item.id, item.content) for item in items]
    compiled = CompileConfig()
    compiled._compile_all_devices = True  # else compiled on a GPU alone
    static = {"cache_implementation": "static", "compile_config": compiled}
    rounds, replies = measure(
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
    speed = {name: median(values) for name, values in rounds.items()}
    found = {name: round(value, 2) for name, value in speed.items()} | {
        "ratio_single": round(speed["engine_slots16"] / speed["generate_single"], 2),
        "ratio_batch16": round(speed["engine_slots16"] / speed["generate_batch16"], 2),
        "tokens_equal": all(reply == replies["generate_single"] for reply in replies.values()),
        "length_mean": round(mean(lengths), 2), "length_max": max(lengths), "threads": torch.get_num_threads(),
        "samples": asked.samples,
    }  # fmt: skip
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(page(found, rounds))
    print(json.dumps(found) if asked.json else "\n".join(f"{name:<18}{value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
