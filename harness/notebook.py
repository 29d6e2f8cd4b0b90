"""One model at hand, without a grid: for notebooks and scripts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from harness.engine import Decoding, Engine, Request, Trace
from harness.engine.trace import Picture
from harness.models import ModelUnavailable, load_model
from pruners import NoPruning, Pruner

HERE = Path(__file__).parent


class Loaded:
    """A loaded model. `model` gives access to tokenizer, sizes and layers, `engine` to batches of requests."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.model = engine, engine.model

    def generate(
        self, images: Picture | Sequence[Picture], question: str, *, pruner: Pruner | None = None,
        max_new_tokens: int = 256, system: str | None = None, **decoding: Any,
    ) -> Trace:  # fmt: skip
        """Answer a question about one or more pictures; the trace holds text, counts, retention and FLOPs.

        Args:
            pruner: the method; None prunes nothing.
            decoding: further fields of `harness.engine.Decoding` (temperature, top_p, stop, ...).

        Raises:
            PrunerError: the method cannot act on this model.
            RuntimeError: the sample failed (unreadable picture, ...).
        """
        pictures = tuple(images) if isinstance(images, list | tuple) else (images,)
        request = Request("notebook", (*pictures, question), () if system is None else (system,))
        settings = Decoding(max_new_tokens=max_new_tokens, **decoding)
        (trace,) = self.engine.run([request], pruner or NoPruning(), settings, record="kept")
        if trace.error:
            raise RuntimeError(trace.error)
        return trace


def load_named(name: str, **options: Any) -> Loaded:
    """See `harness.load`."""
    folder = next(p for p in (HERE / "conf" / "model", HERE.parent / "conf" / "model") if p.is_dir())
    file = folder / f"{name}.yaml"
    if file.exists():
        entry = yaml.safe_load(file.read_text())
    elif "family" in options:
        entry = {"path": name}
    else:
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise ModelUnavailable(f"unknown model {name!r}; known: {known}; for a folder or hub id give family= too")
    entry.pop("thinking", None)
    return Loaded(Engine(load_model(**{**entry, **options})))
