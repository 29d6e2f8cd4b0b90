"""The typed configuration of one cell; `conf/` writes it, `harness.runs.compose` reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.runs.errors import InputError
from harness.runs.typed import build


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A model: `path` is "builtin:...", a local folder or a hub id.

    What only some families know is None for the others, and for the adapter's own default: pixel limits (Qwen3-VL),
    tiles per picture and the thinking prompt (InternVL), geometry, system sentence and CLIP's text tower (LLaVA), what
    becomes of tiles (LLaVA-NeXT).
    """

    name: str
    path: str
    family: str
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    min_pixels: int | None = None
    max_pixels: int | None = None
    max_tiles: int | None = None
    system_prompt: Literal["r1"] | None = None
    image: Literal["pad", "crop"] | None = None
    system: Literal["vicuna", "none"] | None = None
    clip_text: str | None = None
    assembly: Literal["stock", "grid"] | None = None
    pinpoints: int | None = None
    thinking: bool = False
    weights: Literal["trained", "random"] = "trained"

    def __post_init__(self) -> None:
        for name in ("path", "family"):
            if not getattr(self, name).strip():
                raise InputError(f"model.{name}= is empty")
        least, most = self.min_pixels or 1, self.max_pixels
        if least < 1 or (most is not None and most < least):
            raise InputError(f"model.min_pixels={least} and model.max_pixels={most} are no limits of pixels")

    @property
    def options(self) -> dict[str, Any]:
        """What the model's family is asked for; None is its default."""
        names = (
            "min_pixels", "max_pixels", "max_tiles", "system_prompt", "image", "system", "clip_text", "assembly",
            "pinpoints",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Component:
    """A class and its parameters: a method, an add-on, a benchmark. `target` None means nothing."""

    name: str
    target: str | None
    params: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ProtocolConfig:
    """How questions are asked and judged; see design section 7.

    Attributes:
        thinking: what is scored of a reply that thinks: the answer alone ("cut"), the whole reply if its thinking does
            not end ("cut_or_whole"), or always the whole reply.
        judge_model: who judged the numbers that the protocol is known by; `judge=` says who judges here.
        assumed: what the protocol leaves open, or what is not as its source has it.
        changed: keys of the protocol that the command line overrides.
    """

    name: str
    version: int
    system: str | None = None
    max_new_tokens: int = 4096
    thinking_new_tokens: int = 16384
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    thinking: Literal["cut", "cut_or_whole", "whole"] = "cut"
    judge_model: str | None = None
    assumed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    @property
    def said(self) -> tuple[str, ...]:
        """What whoever uses it must know: a line each for what was changed and what is open."""
        name = f"{self.name}/{self.version}"
        changed = (f"{name} with {', '.join(self.changed)} changed",) if self.changed else ()
        return (*changed, *(f"{name} assumes: {text}" for text in self.assumed))


@dataclass(frozen=True, kw_only=True)
class SubsetConfig:
    """Which samples `limit` takes."""

    mode: Literal["first", "stratified"] = "stratified"
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How the engine works; nothing of it but `attention` may change results, but for the rounding of other shapes.

    So `fixed_batch` and `deterministic`, too, choose among roundings alone, as `slots` does, and are in no identity.
    """

    slots: int | None = None
    compiled: bool | None = None
    fixed_batch: bool = False
    deterministic: bool = False
    ahead: bool = True
    feature_cache_mb: int = 512
    feature_cache_folder: str | None = None
    feature_cache_disk_mb: int = 32768
    attention: Literal["sdpa"] = "sdpa"

    def __post_init__(self) -> None:
        for name, least in (("slots", 1), ("feature_cache_mb", 0), ("feature_cache_disk_mb", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"engine.{name} must be at least {least}, got {value}")


@dataclass(frozen=True, kw_only=True)
class ExecutorConfig:
    """Where samples run.

    Attributes:
        gpus: "all", "none" or numbers such as "0,1" (numbers not with Ray).
        workers: Ray actors; None: one per GPU of the cluster, or a single one without GPUs.
        address: of a running Ray cluster; None: that of RAY_ADDRESS, else Ray is started here.
    """

    name: str
    kind: Literal["local", "ray"] = "local"
    gpus: str = "all"
    workers: int | None = None
    address: str | None = None


@dataclass(frozen=True, kw_only=True)
class LoggerConfig:
    """Who follows the run besides the sample log."""

    name: str
    kind: Literal["none", "csv", "wandb"] = "none"
    mode: Literal["offline", "online"] = "offline"
    project: str = "vtpbench"
    entity: str | None = None
    group: str | None = None


URL = r"https?://([\w.-]+|\[[\da-fA-F:.]+\])(:\d{1,5})?(/[^\s?#@]*)?"  # nowhere a user, a password or a query


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Who judges replies that no rule can score: an endpoint (`model` at `base_url`), or a model here (`path`).

    `key_env` names the environment variable that holds the key; prices are US dollars per million tokens, and what they
    are paid for is assumed (`prompt_tokens`, `completion_tokens` per question).
    """

    name: str
    kind: Literal["none", "openai_compatible", "hf_local"] = "none"
    model: str | None = None
    base_url: str | None = None
    key_env: str | None = None
    timeout: float = 120.0
    retries: int = 5
    concurrency: int = 1
    path: str | None = None
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    device: str = "auto"
    prompt_price: float | None = None
    completion_price: float | None = None
    prompt_tokens: int = 800
    completion_tokens: int = 200

    def __post_init__(self) -> None:
        # what was mistaken may be the key itself, so it is not repeated
        if self.key_env is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.key_env):
            raise InputError("judge.key_env= is the NAME of the environment variable that holds the key, in capitals")
        if self.base_url is not None and not re.fullmatch(URL, self.base_url):
            raise InputError("judge.base_url= must be http(s)://host/path without user, password or query")
        for name, least in (("concurrency", 1), ("retries", 0), ("timeout", 0.001)):
            if not least <= getattr(self, name) < float("inf"):
                raise InputError(f"judge.{name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class PathsConfig:
    """Folders."""

    results: str = "results"

    def __post_init__(self) -> None:
        if not self.results.strip():
            raise InputError("paths.results= is empty")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that one cell of a grid is made from."""

    model: ModelConfig
    pruner: Component
    addon: Component
    benchmark: Component
    protocol: ProtocolConfig
    executor: ExecutorConfig
    logger: LoggerConfig
    judge: JudgeConfig
    keep: float | None = None
    tokens: int | None = None
    limit: int | None = None
    subset: SubsetConfig = field(default_factory=SubsetConfig)
    repeats: int = 1
    seeds: tuple[int, ...] | None = None
    shard: str | None = None
    seed: int = 0
    engine: EngineConfig = field(default_factory=EngineConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    resume: Literal["continue", "fresh", "mixed"] = "continue"
    only: Literal["failed"] | None = None
    record: Literal["kept", "attention"] | None = None
    fail_on_error: float = 0.05
    experiment: str | None = None

    def __post_init__(self) -> None:
        if self.keep is not None and self.tokens is not None:
            raise InputError(f"give keep= or tokens=, not both (got keep={self.keep}, tokens={self.tokens})")
        if self.keep is not None and not 0 < self.keep <= 1:
            raise InputError(f"keep must lie in (0, 1], got {self.keep}")
        for name in ("tokens", "limit", "repeats"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.fail_on_error <= 1:
            raise InputError(f"fail_on_error must lie in [0, 1], got {self.fail_on_error}")
        if self.seeds is not None and self.repeats != 1:
            raise InputError("repeats=n is seeds=[0, ..., n-1]; give one of them")
        if self.seeds is not None and (not self.seeds or min(self.seeds) < 0 or len({*self.seeds}) < len(self.seeds)):
            raise InputError(f"seeds must be different whole numbers from 0 on, got {list(self.seeds)}")
        if self.resume == "fresh" and self.shard:
            raise InputError("resume=fresh with shard= would delete what other shards wrote")
        if self.resume == "fresh" and self.only:
            raise InputError("resume=fresh with only=failed would delete what has not failed")

    @property
    def draws(self) -> tuple[int, ...]:
        """Number of each reply to a sample, which with `seed` and the sample's id seeds what it draws."""
        return tuple(range(self.repeats)) if self.seeds is None else self.seeds

    @classmethod
    def parse(cls, values: Mapping[str, Any], choices: Mapping[str, str]) -> RunConfig:
        """From composed plain values; `choices` names the option taken in each group."""
        plain = dict(values)
        for group in ("pruner", "addon", "benchmark"):
            plain[group] = _component(group, plain[group], choices[group])
        for group in ("model", "protocol", "executor", "logger", "judge"):
            plain[group] = {"name": choices[group], **plain[group]}
        return build(cls, plain)


def _component(group: str, values: Mapping[str, Any], choice: str) -> dict[str, Any]:
    if "_target_" not in values:
        raise InputError(f"{group}._target_= is missing")
    return {"name": choice, "target": values["_target_"],
            "params": {k: v for k, v in values.items() if k != "_target_"}}  # fmt: skip
