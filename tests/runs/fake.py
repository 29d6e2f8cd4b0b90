"""An engine without a model: it answers at random, but the same for the same sample."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from harness.engine.trace import Decoding, Recorded, Request, Trace
from harness.runs.config import EngineConfig, ModelConfig
from pruners.base import Pruner
from pruners.views import ModelInfo


@dataclass
class FakeEngine:
    """Replies "1" to "5"; fails on the ids in `failing`, kills its process on those in `deadly`, calls itself broken
    from the sample number `breaks_at` on."""

    failing: frozenset[str] = frozenset()
    deadly: frozenset[str] = frozenset()
    breaks_at: int | None = None
    delay: float = 0.0
    seen: list[str] = field(default_factory=list)

    def run(
        self, requests: Iterable[Request], pruner: Pruner, decoding: Decoding, *, record: Recorded | None = None
    ) -> Iterator[Trace]:
        held: list[Trace] = []
        for number, request in enumerate(requests):
            if number == self.breaks_at:
                raise RuntimeError("the engine is broken")
            if request.id in self.deadly:
                os._exit(9)
            self.seen.append(request.id)
            time.sleep(self.delay)
            held.append(self.trace(request, record))
            if len(held) == 3:  # finished in another order than started
                yield from reversed(held)
                held.clear()
        yield from held

    def trace(self, request: Request, record: Recorded | None) -> Trace:
        if request.id in self.failing:
            return Trace(id=request.id, repeat=request.repeat, finish="error", error="ValueError: damaged")
        text = random.Random(f"{request.id}/{request.repeat}").choice("12345")
        return Trace(
            id=request.id, repeat=request.repeat, token_ids=[1, 2], text=text, answer_tokens=2, text_tokens=9,
            visual_tokens=64, visual_per_layer=[64, 64, 21, 21], visible_per_step=[(21.0, 2)], ret_prefill=0.66,
            ret_decode=0.5, kv=0.6, flops={"vision": 10, "prefill": 20, "decode": 5, "overhead": 0},
            kv_bytes={"visible": 10, "resident": 20, "allocated": 30}, prefill_seconds=0.1, decode_seconds=0.2,
            kept=[{"layer": None, "source": [0, 1]}] if record else [],
        )  # fmt: skip


@dataclass(frozen=True)
class FakeBackend:
    """Hands out one fake engine per load, and keeps those of this process in `engines`."""

    depth: int = 4
    failing: frozenset[str] = frozenset()
    deadly: frozenset[str] = frozenset()
    breaks_at: int | None = None
    delay: float = 0.0
    version: str = "fake-1"
    processor: str = "abc"
    engines: list[FakeEngine] = field(default_factory=list, compare=False)

    def info(self, model: ModelConfig) -> ModelInfo:
        return ModelInfo(model.name, depth=self.depth, tower_depth=2, unit=4)

    def files(self, model: ModelConfig) -> dict[str, str]:
        return {"files": "weights", "processor": self.processor}

    def versions(self) -> dict[str, str]:
        return {"engine": self.version}

    def engine(self, model: ModelConfig, config: EngineConfig, device: str) -> FakeEngine:
        self.engines.append(FakeEngine(self.failing, self.deadly, self.breaks_at, self.delay))
        return self.engines[-1]
