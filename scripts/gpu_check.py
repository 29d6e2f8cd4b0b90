"""One command on a GPU machine: are fast decode steps right, and what do methods save there?

    python scripts/gpu_check.py                              # all; results/efficiency/
    python scripts/gpu_check.py --models qwen3_vl_4b --settings 4096x16,4096x64 --plain
    python scripts/gpu_check.py --tiny --device cpu --out /tmp/check

Needs torch and transformers alone, no download: models of full size with random weights, prompts of random pixels.
First, compiled and captured steps are compared with plain ones; then methods are measured beside the unpruned model. A
file per table is written anew after every method, so that nothing is lost if time runs out. Exit code 1: steps differ.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.engine.bench.check import steps_agree
from harness.engine.bench.machine import describe, pick, require
from harness.engine.bench.measure import Setting
from harness.engine.bench.prompt import Unmeasurable
from harness.engine.bench.side_by_side import side_by_side
from harness.engine.bench.table import Table, text, written
from harness.models.random import random_model
from pruners import DSTP, DeSAP, DivPrune, FastV, NoPruning, Pruner, PyramidDrop, VisionPulse, VisionZip

RESULTS = Path(__file__).resolve().parents[1] / "results" / "efficiency"


class Known(NamedTuple):
    """A model, what methods keep of its visual tokens, and the settings it is measured in: visual tokens x slots."""

    path: str
    family: str
    dtype: str
    keep: float
    settings: str
    clip_text: str | None = None


FULL = {
    "qwen3_vl_4b": Known("Qwen/Qwen3-VL-4B-Instruct", "qwen3_vl", "bfloat16", 1 / 3, "1280x1,1280x64,4096x1,4096x16"),
    "internvl3_5_8b": Known("OpenGVLab/InternVL3_5-8B-HF", "internvl", "bfloat16", 1 / 3, "1280x1,1280x64"),
    "llava_1_5_7b": Known(
        "llava-hf/llava-1.5-7b-hf", "llava", "float16", 1 / 9, "576x1,576x16", "openai/clip-vit-large-patch14-336"
    ),
}
TINY = {
    "qwen3_vl_4b": Known("builtin:qwen3_vl", "qwen3_vl", "float32", 1 / 3, "64x1,128x8"),
    "internvl3_5_8b": Known("builtin:internvl", "internvl", "float32", 1 / 3, "64x8"),
    "llava_1_5_7b": Known("builtin:llava", "llava", "float32", 1 / 9, "64x8", "builtin:llava/clip"),
}


def methods(keep: float) -> dict[str, Pruner]:
    """Those of the tables, with the parameters of conf/pruner."""
    return {
        "fastv": FastV(keep=keep),
        "divprune": DivPrune(keep=keep),
        "visionzip": VisionZip(keep=keep, contextual=0.15625),
        "pyramiddrop": PyramidDrop(keep=keep),
        "desap": DeSAP(keep=keep),
        "visionpulse_10": VisionPulse(tau=0.4, low=0.05, high=0.10),
        "fastv+dstp": DSTP(base=FastV(keep=keep)),
    }


def check(device: str, dtype: str, plain: bool) -> tuple[list[dict[str, object]], bool]:
    """Fast steps against plain ones on a small model, with recalls at a fifth of the steps."""
    model = random_model("builtin:qwen3_vl", family="qwen3_vl", dtype=dtype, device=device)
    watched: dict[str, Pruner] = {
        "none": NoPruning(),
        "visionpulse_10": VisionPulse(tau=0.4, low=0.05, high=0.10),
        "fastv+dstp": DSTP(base=FastV(), trigger="random", rate=0.2),
    }
    ways = [*([] if plain else ["compiled"]), *(["captured"] if device.startswith("cuda") else [])]
    rows, right = list[dict[str, object]](), True
    for name, pruner in watched.items():
        found = steps_agree(
            model, pruner, name, visual=64, text=20, new=24, slots=8, compiled=not plain
        )  # fmt: skip
        passed = found.passed and found.path == (" and ".join(ways) or "plain")
        right &= passed
        rows.append({**asdict(found), "dtype": dtype, "passed": passed})
        print(
            f"{name}, {dtype}, {found.path}: logits differ by {found.difference:.2g} of the largest, "
            f"{100 * found.agree:.1f} % of the tokens agree: {'right' if passed else 'WRONG'}",
            flush=True,
        )
    return rows, right


def save(out: Path, name: str, table: Table) -> None:
    """A table as it is so far."""
    out.mkdir(parents=True, exist_ok=True)
    for kind in ("md", "json"):
        (out / f"{name}.{kind}").write_text(written([table], kind))


def measure(name: str, known: Known, asked: argparse.Namespace, device: str, out: Path) -> None:
    """All tables of one model."""
    settings = [tuple(map(int, pair.split("x"))) for pair in (asked.settings or known.settings).split(",")]
    wanted = {key: method for key, method in methods(known.keep).items() if not asked.methods or key in asked.methods}
    common = {"family": known.family, "dtype": known.dtype, "clip_text": known.clip_text}
    model, bare = None, random_model(known.path, device="meta", **common)
    for visual, slots in settings:
        setting = Setting(visual_tokens=visual, text_tokens=asked.text, new_tokens=asked.new, slots=slots)
        try:
            require(bare, setting, device)
            model = model or random_model(known.path, device=device, **common)
            file = f"{name}_{visual}x{slots}{'_plain' if asked.plain else ''}"
            title, compiled = f"{name}{', tiny' if asked.tiny else ''}", device.startswith("cuda") and not asked.plain
            done = partial(save, out, file)
            table = side_by_side(
                model, wanted, setting, name=title, compiled=compiled, largest=asked.largest, done=done
            )  # fmt: skip
        except Unmeasurable as error:
            print(f"{name}, {visual} visual tokens, {slots} slots: {error}", flush=True)
            continue
        save(out, file, table)
        print(text(table), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Check, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="folder; on a GPU results/efficiency, else it must be given")
    parser.add_argument("--tiny", action="store_true", help="tiny models stand in for the full-size ones")
    parser.add_argument(
        "--plain",
        action="store_true",
        help="steps are not compiled; on a GPU still captured (on a CPU, tables never are)",
    )
    parser.add_argument("--models", nargs="*", choices=[*FULL], default=[*FULL])
    parser.add_argument("--methods", nargs="*", choices=[*methods(0.5)], help="of all")
    parser.add_argument("--settings", help="visual tokens x slots, as in 1280x1,1280x64, instead of each model's own")
    parser.add_argument("--text", type=int, default=256, help="tokens of text")
    parser.add_argument("--new", type=int, default=256, help="tokens of a reply")
    parser.add_argument("--largest", action="store_true", help="also run the largest number of slots in 80 and 139 GiB")
    parser.add_argument("--no-check", action="store_true", help="tables alone")
    parser.add_argument("--no-tables", action="store_true", help="the comparison of steps alone")
    asked = parser.parse_args(argv)
    try:
        device = pick(asked.device)
    except Unmeasurable as error:
        parser.error(str(error))
    gpu = device.startswith("cuda")
    out = asked.out or (RESULTS if gpu else None)
    if out is None:
        parser.error("--out= is needed: only what a GPU measures belongs into results/efficiency")
    print(describe(device), flush=True)
    right = True
    if not asked.no_check:
        rows = []
        for dtype in ("float32", "bfloat16") if gpu else ("float32",):
            some, fine = check(device, dtype, asked.plain)
            rows, right = rows + some, right and fine
        out.mkdir(parents=True, exist_ok=True)
        told = {"machine": describe(device), "checks": rows}
        (out / f"steps{'_plain' if asked.plain else ''}.json").write_text(json.dumps(told, indent=1) + "\n")
    if not asked.no_tables:
        for name in asked.models:
            measure(name, (TINY if asked.tiny else FULL)[name], asked, device, out)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
