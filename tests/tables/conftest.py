"""Made cell folders, written as a run writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.benchmarks.base import Scoring
from harness.engine.trace import Trace
from harness.runs.log import digest
from harness.runs.scores import ScoreSpec

Write = Callable[..., Path]
GLYPHS = ScoreSpec(Scoring("glyph.walk", "glyph.walk"), False, "cut")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def cell(results: Path) -> Write:
    """Write one cell: `cell("fastv", credits, keep=1/3)`; a credit of None is a failed sample."""

    def write(
        method: str,
        credits: Sequence[float | None],
        *,
        model: str = "tiny_qwen3_vl",
        benchmark: str = "glyph_walk",
        keep: float | None = None,
        tokens: int | None = None,
        addon: str = "",
        seed: int = 0,
        hash8: str = "0a1b2c3d",
        clusters: int = 1,
        first: int = 0,
        scale: int = 1,
        spec: ScoreSpec = GLYPHS,
        assumed: Sequence[str] = (),
        changed: Sequence[str] = (),
        **params: Any,
    ) -> Path:
        budget = f"@{tokens}t" if tokens else f"@{keep:.3g}" if keep else ""
        name = method + budget + (f"+{addon}" if addon else "")
        folder = results / "runs" / model / benchmark / name / f"greedy-{hash8}"
        folder.mkdir(parents=True)
        keeps = {"keep": keep, "tokens": tokens}
        pruner = {"method": f"pruners.{method}", **keeps, **params}
        decoding = {"temperature": 0.0, "max_new_tokens": 96, "seed": 0}
        config = {
            "model": {"name": model, "dtype": "float32"},
            "benchmark": {"name": benchmark, "seed": seed},
            "pruner": {"name": method, "_target_": f"pruners.{method}", **params},
            "addon": {"name": addon or "none"},
            "protocol": {"name": "vtp", "version": 1, "assumed": list(assumed), "changed": list(changed)},
            "scoring": spec.plain(),
            **keeps,
            "decoding": decoding,
            "limit": len(credits),
            "seed": 0,
            "identity": {
                "model": {"path": model},
                "pruner": {"method": f"addons.{addon}", "base": pruner} if addon else pruner,
                "protocol": {"name": "vtp", "version": 1},
                "data": {"benchmark": benchmark, "content": f"{benchmark}{seed}"},
                "decoding": decoding,
            },
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        share = 1.0 if method == "none" else keep or 0.25
        lines = [sample(i + first, credit, share, clusters, scale) for i, credit in enumerate(credits)]
        (folder / "samples-main.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / "scores").mkdir()
        verdicts = [verdict(i + first, c, spec.scoring.rule) for i, c in enumerate(credits) if c is not None]
        scores = folder / "scores" / f"{spec.stem}-main-0.jsonl"
        scores.write_text("".join(json.dumps(line) + "\n" for line in verdicts))
        return folder

    return write


def sample(i: int, credit: float | None, share: float, clusters: int = 1, scale: int = 1) -> dict[str, Any]:
    """A line of the log."""
    extra = {"answer": "7", "category": "walk", "cluster": f"c{i // clusters}", "meta": {}}
    if credit is None:
        trace = Trace(id=f"s{i}", finish="error", error="OSError: damaged picture")
        return {**trace.record(), **extra}
    flops = {"vision": 9_100_000, "prefill": int(120e6 * share), "decode": 41_000_000 + i, "overhead": 12_000}
    trace = Trace(
        id=f"s{i}",
        text=f"so {credit:g}",
        answer_tokens=30 + i % 5,
        visual_tokens=64,
        finish="length" if i % 20 == 0 else "stop",
        ret_prefill=share,
        ret_decode=share,
        kv=share,
        flops={part: scale * n for part, n in flops.items()},
        kv_bytes={"visible": 40_000, "resident": int(66_000 * share) * scale, "allocated": 80_000},
        prefill_seconds=0.004,
        decode_seconds=0.03,
    )
    return {**trace.record(), **extra}


def verdict(i: int, credit: float, rule: str) -> dict[str, Any]:
    """A line of the scores; every tenth reply could not be read."""
    said = {"correct": credit == 1, "value": credit, "extracted": None if i % 10 == 0 else "7", "rule": rule}
    reply = digest(f"so {credit:g}")[:16]
    return {
        "id": f"s{i}",
        "repeat": 0,
        "reply": reply,
        **said,
        "unparsed": i % 10 == 0,
        "lenient": credit,
        "judge": [],
        "error": None,
    }
