"""The shipped tiny models solve their world with all tokens, on unseen pictures; pruning can hurt them."""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from typing import Any

import pytest
import torch
from statsmodels.stats.proportion import proportion_confint
from torch.nn.functional import normalize

from harness.benchmarks.glyph_tasks import Glyphs
from harness.benchmarks.scoring import score
from harness.engine import Decoding, Engine, Request
from harness.models import Model, load_model
from harness.models.loading import TINY
from pruners import DSTP, Blind, FastV, NoPruning, Pruner, VisionPulse
from pruners.signals import ClipPatches

FAMILIES = ["qwen3_vl", "internvl", "llava"]
OPTIONS: dict[str, dict[str, Any]] = {
    "qwen3_vl": {},
    "internvl": {"max_tiles": 4},
    "llava": {"system": "none", "clip_text": "builtin:llava/clip"},
}
KINDS = [("lookup", "position"), ("lookup", "colour"), ("walk", "both")]


@cache
def shipped(family: str) -> Model:
    """A shipped model with the options of its configuration."""
    return load_model(f"builtin:{family}", family=family, **OPTIONS[family])


def answers(model: Model, benchmark: Glyphs, pruner: Pruner, n: int) -> dict[str, list[float]]:
    """1 or 0 for each of the first n items, by category."""
    items = {item.id: item for item in (benchmark.items()[i] for i in range(n))}
    requests = [Request(item.id, item.content, needed=item.needed) for item in items.values()]
    traces = list(Engine(model).run(requests, pruner, Decoding(max_new_tokens=96)))
    assert len(traces) == n
    found: dict[str, list[float]] = defaultdict(list)
    for t in traces:
        found[items[t.id].category].append(score(benchmark.scoring.rule, items[t.id], t.text).value or 0.0)
    return found


def accuracy(model: Model, benchmark: Glyphs, pruner: Pruner, n: int) -> float:
    """Share of the first n items answered right."""
    return sum(map(sum, answers(model, benchmark, pruner, n).values())) / n


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("task", "by"), KINDS)
def test_all_tokens(family: str, task: str, by: str) -> None:
    """Look-ups of both kinds at least 95 %, walks at least 90 %, on another test set than the default."""
    least = 0.95 if task == "lookup" else 0.9
    assert accuracy(shipped(family), Glyphs(task=task, by=by, seed=12345), NoPruning(), 60) >= least


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", ["lookup", "walk"])
@pytest.mark.parametrize("option", [{"free": True}, {"distractors": True}, {"pictures": 2}], ids=str)
def test_options(family: str, task: str, option: dict[str, Any]) -> None:
    """In other words, behind distractions (LLaVA is weak there), about one of two pictures: at least 80 %."""
    least = 0.6 if family == "llava" and "distractors" in option else 0.8
    assert accuracy(shipped(family), Glyphs(task=task, seed=12345, **option), NoPruning(), 20) >= least


@pytest.mark.parametrize("task", ["lookup", "walk"])
def test_tiles(task: str) -> None:
    """InternVL reads pictures in 2 x 2 tiles and a thumbnail."""
    benchmark = Glyphs(task=task, seed=12345, cell_pixels=32)
    prompt = shipped("internvl").prepare(Request("", benchmark.item(0).content))
    assert len(prompt.visual) == 5 * 64
    assert accuracy(shipped("internvl"), benchmark, NoPruning(), 40) >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("task", "by"), KINDS)
@pytest.mark.parametrize("seed", [0, 12345])
def test_wilson_bounds(family: str, task: str, by: str, seed: int) -> None:
    """On 2,000 items the lower 95 % bound is above 96 % (look-ups) or 90 % (walks); the longest walks reach 80 %."""
    benchmark = Glyphs(task=task, by=by, seed=seed, size=2000)
    found = answers(shipped(family), benchmark, NoPruning(), 2000)
    print(f"\n{family} {by} {task}:", {kind: sum(x) / len(x) for kind, x in sorted(found.items())})
    right = sum(map(sum, found.values()))
    assert proportion_confint(right, 2000, method="wilson")[0] > (0.96 if task == "lookup" else 0.9)
    longest = found[max(found)]
    assert sum(longest) / len(longest) >= 0.8


def test_the_picture_is_needed(trained: Model) -> None:
    """Without visual tokens the answers are at the level of guessing."""
    assert accuracy(trained, Glyphs(task="lookup", by="position"), Blind(), 100) < 0.5
    assert accuracy(trained, Glyphs(task="walk"), Blind(), 100) < 0.3


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


@pytest.mark.parametrize("family", FAMILIES)
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
