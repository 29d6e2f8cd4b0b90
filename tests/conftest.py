"""Models and prompts that many tests share."""

from __future__ import annotations

import random
from functools import cache

import pytest
import torch
from PIL import Image

from harness.benchmarks import glyphs
from harness.engine import Request
from harness.models import Model, load_model

SIZES = [(128, 128), (160, 96), (64, 128), (32, 32)]


@cache
def tiny(weights: str) -> Model:
    """The shipped tiny model, trained or with random weights; one per process, as it is never changed."""
    return load_model("builtin:qwen3_vl", family="qwen3_vl", weights=weights)


@pytest.fixture(params=["trained", "random"])
def model(request: pytest.FixtureRequest) -> Model:
    return tiny(request.param)


@pytest.fixture
def trained() -> Model:
    return tiny("trained")


def prompts(n: int, most_pictures: int = 3) -> list[Request]:
    """Prompts with no picture, one, two or three of different sizes, text between and behind them."""
    out = []
    for i in range(n):
        rng = random.Random(f"prompt {i}")
        content: list[str | Image.Image] = []
        for _ in range(i % (most_pictures + 1)):
            task = glyphs.walk(rng, rng.randint(3, 8))
            content.append(Image.fromarray(glyphs.render(task.grid)).resize(rng.choice(SIZES)))
            if rng.random() < 0.5:
                content.append("then")
        content.append(rng.choice([glyphs.walk, glyphs.lookup_by_position])(rng, 3).question)
        out.append(Request(f"p{i}", tuple(content)))
    return out


@pytest.fixture(autouse=True)
def _threads() -> None:
    torch.set_num_threads(1)
