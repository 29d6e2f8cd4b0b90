"""The typed configuration of one cell; `conf/` writes it, `harness.runs.compose` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.runs.errors import InputError
from harness.runs.typed import build


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A model: `path` is "builtin:...", a local folder or a hub id.

    What only some families know is None for the others, and for the adapter's own default: pixel limits (Qwen3-VL),
    tiles per picture and the thinking prompt (InternVL), geometry and system sentence (LLaVA).
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
    thinking: bool = False
    weights: Literal["trained", "random"] = "trained"

    @property
    def options(self) -> dict[str, Any]:
        """What the model's family is asked for; None is its default."""
        names = ("min_pixels", "max_pixels", "max_tiles", "system_prompt", "image", "system")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Component:
    """A class and its parameters: a method, an add-on, a benchmark. `target` None means nothing."""

    name: str
    target: str | None
    params: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ProtocolConfig:
    """How questions are asked and judged; see design section 7."""

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
    scorer: str = "official"


@dataclass(frozen=True, kw_only=True)
class SubsetConfig:
    """Which samples `limit` takes."""

    mode: Literal["first", "stratified"] = "stratified"
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How the engine works; nothing of it but `attention` may change results."""

    slots: int | None = None
    feature_cache_mb: int = 512
    attention: Literal["sdpa"] = "sdpa"


@dataclass(frozen=True, kw_only=True)
class ExecutorConfig:
    """Where samples run. `gpus`: "all", "none" or numbers such as "0,1"."""

    name: str
    kind: Literal["local"] = "local"
    gpus: str = "all"


@dataclass(frozen=True, kw_only=True)
class LoggerConfig:
    """Who follows the run besides the sample log."""

    name: str
    kind: Literal["none", "csv", "wandb"] = "none"
    mode: Literal["offline", "online"] = "offline"
    project: str = "vtpbench"
    entity: str | None = None
    group: str | None = None


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Who judges replies that no rule can score."""

    name: str
    kind: Literal["none"] = "none"


@dataclass(frozen=True, kw_only=True)
class PathsConfig:
    """Folders."""

    results: str = "results"


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
    shard: str | None = None
    seed: int = 0
    engine: EngineConfig = field(default_factory=EngineConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    resume: Literal["continue", "fresh", "mixed"] = "continue"
    record: Literal["kept"] | None = None
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
        if self.resume == "fresh" and self.shard:
            raise InputError("resume=fresh with shard= would delete what other shards wrote")

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
