"""The shipped tiny model solves its world with all tokens, on pictures it has never seen; pruning can hurt it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.benchmarks.glyph_tasks import Glyphs
from harness.benchmarks.scoring import score
from harness.engine import Decoding, Engine, Request
from harness.models import Model
from harness.models.loading import TINY
from pruners import DSTP, Blind, FastV, NoPruning, Pruner, VisionPulse


def accuracy(model: Model, benchmark: Glyphs, pruner: Pruner, n: int) -> float:
    """Share of the first n items answered right."""
    items = {item.id: item for item in (benchmark.items()[i] for i in range(n))}
    requests = [Request(item.id, item.content, needed=item.needed) for item in items.values()]
    traces = list(Engine(model).run(requests, pruner, Decoding(max_new_tokens=96)))
    assert len(traces) == n
    verdicts = [score(benchmark.scoring.rule, items[t.id], t.text) for t in traces]
    return sum(v.value or 0.0 for v in verdicts) / n


@pytest.mark.parametrize(("task", "by", "least"), [("walk", "both", 0.8), ("lookup", "position", 0.9)])
@pytest.mark.parametrize("seed", [0, 12345])
def test_all_tokens(trained: Model, task: str, by: str, least: float, seed: int) -> None:
    """Walks at least 80 %, look-ups by position at least 90 %, on the default test set and on another."""
    assert accuracy(trained, Glyphs(task=task, by=by, seed=seed), NoPruning(), 200) >= least


def test_the_picture_is_needed(trained: Model) -> None:
    """Without visual tokens the answers are at the level of guessing."""
    assert accuracy(trained, Glyphs(task="lookup", by="position"), Blind(), 100) < 0.5
    assert accuracy(trained, Glyphs(task="walk"), Blind(), 100) < 0.3


def test_shipped_files() -> None:
    """Everything a hub model has: config, weights below 8 MB, tokenizer, chat template, image processor."""
    folder: Path = TINY / "qwen3_vl"
    names = {file.name for file in folder.iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
        "preprocessor_config.json",
    } <= names
    assert (folder / "model.safetensors").stat().st_size < 8_000_000


def test_pruning_fails_where_recall_helps(trained: Model) -> None:
    """It reads its pictures in layer 2, each step another cell: what FastV drops before is missed, what comes back
    while decoding is used, and reading all layers but the last ones is enough."""
    walk = Glyphs(task="walk")
    alone, recalled = FastV(), DSTP(base=FastV(), swap="full")
    lost = accuracy(trained, walk, alone, 100)
    assert lost < 0.3
    assert accuracy(trained, walk, recalled, 100) > lost + 0.2
    assert accuracy(trained, walk, VisionPulse(), 100) > 0.9
