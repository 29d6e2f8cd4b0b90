"""The shipped tiny models solve their world with all tokens, on unseen pictures; pruning can hurt them."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch.nn.functional import normalize

from harness.benchmarks.glyph_tasks import Glyphs
from harness.benchmarks.scoring import score
from harness.engine import Decoding, Engine, Request
from harness.models import Model, load_model
from harness.models.loading import TINY
from pruners import DSTP, Blind, FastV, NoPruning, Pruner, VisionPulse
from pruners.signals import ClipPatches

LLAVA = {"system": "none", "clip_text": "builtin:llava/clip"}


@cache
def shipped(family: str) -> Model:
    """A shipped model with the options of its configuration."""
    return load_model(f"builtin:{family}", family=family, **(LLAVA if family == "llava" else {}))


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


@pytest.mark.parametrize("family", ["internvl", "llava"])
@pytest.mark.parametrize(
    ("task", "by", "least"), [("walk", "both", 0.85), ("lookup", "position", 0.95), ("lookup", "colour", 0.95)]
)
def test_all_tokens_of_the_other_families(family: str, task: str, by: str, least: float) -> None:
    """Look-ups of all kinds at least 95 %, walks at least 85 %, on another test set than the default."""
    assert accuracy(shipped(family), Glyphs(task=task, by=by, seed=12345), NoPruning(), 100) >= least


@pytest.mark.parametrize("family", ["internvl", "llava"])
def test_the_others_read_late_too(family: str) -> None:
    """What FastV drops before layer 2 is missed."""
    assert accuracy(shipped(family), Glyphs(task="walk"), FastV(), 60) < 0.5


@torch.inference_mode()
def test_the_question_finds_its_patch() -> None:
    """CLIP's text tower knows the cell that a look-up names: least like it plainly, most like it decoupled."""
    benchmark, model = Glyphs(task="lookup"), shipped("llava")
    for signal, sign in ((ClipPatches(-2), -1), (ClipPatches(-1, "qqv"), 1)):
        hits = 0
        for i in range(40):
            item, task = benchmark.item(i), benchmark.draw(i)
            prompt = model.prepare(Request(item.id, item.content))
            patches = normalize(model.encode(prompt.pictures[0], [signal]).signals[signal][0], dim=1)
            scores = sign * (patches @ model.clip_text(task.question)[0].pooled[0])
            row, column = task.needed[0]
            hits += int(scores.argmax()) == 8 * row + column
        assert hits > 30


@pytest.mark.parametrize("family", ["qwen3_vl", "internvl", "llava"])
def test_shipped_files(family: str) -> None:
    """Everything a hub model has: config, weights below 8 MB, tokenizer, chat template, image processor."""
    folder = TINY / family
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
