"""Judges: models that score what no rule can. Replies are cached; a judge that cannot be reached leaves no verdict."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.benchmarks.judge.base import Judge, Recorder
from harness.benchmarks.judge.cache import Cached
from harness.benchmarks.judge.endpoint import OpenAICompatible

if TYPE_CHECKING:
    from harness.runs.config import JudgeConfig


class Cost(NamedTuple):
    """What judging takes at most; cached replies cost nothing. `dollars` is None without prices."""

    calls: int
    tokens: int
    dollars: float | None


def make_judge(config: JudgeConfig, cache: Path) -> Judge | None:
    """The judge of a configuration with its cache, or None.

    Raises:
        ValueError: a key of the configuration is missing, or the environment variable that it names.
        DataError: the cache cannot be used.
    """
    if config.kind == "none":
        return None
    return Cached(_endpoint(config) if config.kind == "openai_compatible" else _local(config), cache)


def _endpoint(config: JudgeConfig) -> Judge:
    return OpenAICompatible(
        model=_given("model", config.model), base_url=_given("base_url", config.base_url), key=_key(config.key_env),
        revision=config.revision, timeout=config.timeout, retries=config.retries,
    )  # fmt: skip


def _local(config: JudgeConfig) -> Judge:
    from harness.benchmarks.judge.local import HFLocal

    path = _given("path", config.path)
    return HFLocal(path=path, revision=config.revision, dtype=config.dtype, device=config.device)


def _given(name: str, value: str | None) -> str:
    if not value:
        raise ValueError(f"judge.{name}= is missing")
    return value


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(f"{variable} is not set, which judge.key_env= names (judge.key_env=null: no key is needed)")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError(f"{variable}, which judge.key_env= names, is no key: it has spaces or odd characters")
    return key


def cost(config: JudgeConfig, calls: int) -> Cost:
    """What `calls` questions cost, under the tokens per question that the configuration assumes."""
    tokens = calls * (config.prompt_tokens + config.completion_tokens)
    if config.prompt_price is None or config.completion_price is None:
        return Cost(calls, tokens, None)
    each = config.prompt_tokens * config.prompt_price + config.completion_tokens * config.completion_price
    return Cost(calls, tokens, calls * each / 1e6)


__all__ = ["Cached", "Cost", "Judge", "OpenAICompatible", "Recorder", "cost", "make_judge"]
