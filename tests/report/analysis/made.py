"""Replies made by hand, and what an analysis is asked for, so that analyses run without a model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.engine.watch import DELTAS, MEASURES
from harness.report.analysis.kind import Ask
from harness.report.analysis.stored import Looked
from harness.runs.backend import TorchBackend
from harness.runs.compose import Configs

WALK = " c3 4 = 4 up c2 5 = 9 left b2 1 = 10 answer 10"


def ask(layer: int | None = None) -> Ask:
    return Ask(results=Path("nowhere"), layer=layer, configs=Configs.find(), backend=TorchBackend())


def reply(text: str = WALK, tokens: int = 64, depth: int = 4, steps: int | None = None, **changes: Any) -> Looked:
    """A reply of one token a word and an end token, that looks at random; `changes` of its sample and record."""
    length = len(text.split()) + 1 if steps is None else steps
    sample = {"model": "m", "task": "glyph_walk", "id": "00001", "repeat": 0, "category": "c", "credit": 1.0}
    sample |= {"text": text, **{key: value for key, value in changes.items() if key in sample}}
    rng = np.random.default_rng(len(sample["id"]) + length)
    values = rng.random((length, depth, len(MEASURES)))
    values[..., MEASURES.index("active_0.0005") :] = rng.integers(0, tokens + 1, (length, depth, len(DELTAS)))
    side = int(tokens**0.5)
    record: dict[str, Any] = {
        "visual_tokens": tokens, "measures": list(MEASURES), "deltas": list(DELTAS), "needed": [[18], [10], [9]],
        "ever": rng.integers(0, tokens + 1, (depth, len(DELTAS))).tolist(),
        "top": [[rng.permutation(tokens)[:16].tolist(), sorted(rng.random(16).tolist())[::-1]] for _ in range(length)],
        "boxes": [[0, i // side / side, i % side / side, (i // side + 1) / side, (i % side + 1) / side]
                  for i in range(tokens)],
    }  # fmt: skip
    record |= {key: value for key, value in changes.items() if key in record}
    return Looked(sample, changes.get("values", values), record)


def stored(monkeypatch: pytest.MonkeyPatch, module: Any, *replies: Looked) -> None:
    """Let an analysis find these replies of the full model."""

    def looked(_: Ask, **cell: Any) -> Iterator[Looked]:
        assert cell == {"method": "none"}
        yield from replies

    monkeypatch.setattr(module, "looked", looked)
