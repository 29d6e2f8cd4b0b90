"""Asking a judge until it replies in the form that it was asked for, as VLMEvalKit does."""

from __future__ import annotations

from collections.abc import Callable

from harness.benchmarks.scoring.verdict import Ask


def insist(ask: Ask, prompt: str, read: Callable[[str], str | None], *, system: str | None = None) -> str | None:
    """What `read` makes of the first of five replies that it can read, at temperatures 0, 0.5, 1, 1.5 and 2."""
    for attempt in range(5):
        said = read(ask(prompt, system=system, temperature=attempt / 2))
        if said is not None:
            return said
    return None


def binary(reply: str) -> str | None:
    """A reply that is 0 or 1."""
    return reply.strip() if reply.strip() in ("0", "1") else None
