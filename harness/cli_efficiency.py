"""The verb `efficiency`: what methods save on one model at one length, beside the unpruned model in the same run."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.cli_shared import epilog, write
from harness.runs.compose import Composed, Configs, compose_all, split
from harness.runs.errors import InputError, Skip
from harness.runs.typed import build

if TYPE_CHECKING:
    from harness.engine.bench.measure import Setting
    from harness.engine.bench.table import Table
    from harness.models import Model
    from harness.runs.config import ModelConfig
    from pruners.base import Pruner

KEYS = {
    "visual_tokens": "of a prompt, in pictures as the family lays them out",
    "text_tokens": "of a prompt (256)",
    "new_tokens": "of a reply (128)",
    "slots": "samples at a time (1)",
    "model": "as for run; configurations of qwen3_vl_4b, internvl3_5_8b, llava_1_5_7b are at hand",
    "pruner": "methods, as for run; also addon, keep, tokens",
    "weights": "random (needs no download), or trained",
    "device": "auto (a GPU where there is one), cpu, cuda, or meta: FLOPs and bytes alone, no times",
    "largest": "true: also measure at the largest number of slots, where the memory is there",
    "experiment": "visionpulse_latency",
    "allow": "packages, besides harness and pruners, whose classes configuration files may name",
    "to": "md, json, txt, or a file with such an ending",
}
GROUPS = ("model", "pruner", "addon")
KNOWN = {*KEYS, *GROUPS, "keep", "tokens"}
EPILOGS = {
    "efficiency": epilog(
        KEYS,
        "efficiency model=tiny_qwen3_vl pruner=fastv,visionpulse_10 visual_tokens=256 slots=16",
        "efficiency model=qwen3_vl_4b pruner=fastv addon=none,dstp keep=1/3 visual_tokens=1280,4096 slots=1,16,64",
        "efficiency model=llava_1_5_7b pruner=divprune tokens=64 visual_tokens=576 device=meta to=costs.md",
        "efficiency experiment=visionpulse_latency to=latency.md",
    )
}
FORMS = {"md": "md", "json": "json", "txt": "text"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What a cell of this verb adds to one of `run`."""

    visual_tokens: int
    text_tokens: int = 256
    new_tokens: int = 128
    slots: int = 1
    weights: Literal["random", "trained"] = "random"
    device: str = "auto"
    largest: bool = False

    def setting(self) -> Setting:
        """What is run. Raises InputError."""
        from harness.engine.bench.measure import Setting
        from harness.engine.bench.prompt import Unmeasurable

        names = [field.name for field in dataclasses.fields(Setting)]
        try:
            return Setting(**{name: getattr(self, name) for name in names})
        except Unmeasurable as error:
            raise InputError(str(error)) from None


Group = dict[tuple["ModelConfig", Asked], dict[str, "Pruner"]]


def efficiency(arguments: argparse.Namespace, backend: object) -> int:
    """Measure every method of a grid and print a table per model and setting."""
    from harness.engine.bench.prompt import Unmeasurable
    from harness.engine.bench.table import written

    names, keys = split(arguments.overrides)
    if names:
        raise InputError(f"expected key=value, got {names[0]!r}")
    for key in keys:
        if key not in KNOWN and key.partition(".")[0] not in GROUPS:
            raise InputError(
                f"unknown key {key}; known: {', '.join(sorted(KNOWN))}, and those of model., pruner., addon."
            )
    to = keys.pop("to", "txt")
    if (kind := to.rpartition(".")[2]) not in FORMS:
        raise InputError(f"to= must be md, json, txt, or a file with such an ending, got {to!r}")
    cells = compose_all([f"{key}={value}" for key, value in keys.items()], Configs.find(arguments.config_dir))
    groups = grouped(cells)
    tables: list[Table] = []
    try:
        for found in measured(groups):
            tables.append(found)
            if to in FORMS:
                print(written([found], FORMS[kind]))
            else:
                write(Path(to), written(tables, FORMS[kind]))  # all so far, so that what comes later can fail
    except Unmeasurable as error:
        raise InputError(str(error)) from None
    return 0


def grouped(cells: list[Composed]) -> Group:
    """Methods by what is beside each other: the model and the setting. Raises InputError."""
    from harness.runs.cells import make_pruner
    from harness.runs.config import RunConfig
    from pruners.none import NoPruning

    groups: Group = {}
    names = {field.name for field in dataclasses.fields(Asked)}
    for cell in cells:
        if cell.missing:
            raise InputError(cell.missing)
        asked = build(Asked, {key: value for key, value in cell.values.items() if key in names})
        asked.setting()
        config = RunConfig.parse({k: v for k, v in cell.values.items() if k not in names}, cell.choices)
        methods = groups.setdefault((config.model, asked), {})
        try:
            pruner = make_pruner(config)
        except Skip as skip:
            raise InputError(str(skip)) from None
        if not isinstance(pruner, NoPruning):
            methods[label(cell.choices, cell.overrides)] = pruner
    return groups


def label(choices: Mapping[str, str], overrides: Mapping[str, str]) -> str:
    """A method with its add-on and what was set of it."""
    addon = "" if choices["addon"] == "none" else f"+{choices['addon']}"
    budget = [f"@{overrides['keep']}"] if "keep" in overrides else []
    budget += [f"@{overrides['tokens']}t"] if "tokens" in overrides else []
    own = [f"{key}={value}" for key, value in overrides.items() if key.partition(".")[0] in ("pruner", "addon")]
    return " ".join([choices["pruner"] + "".join(budget) + addon, *(text for text in own if "." in text.split("=")[0])])


def measured(groups: Group) -> Iterator[Table]:
    """A table per group; everything is checked before anything is built."""
    from harness.engine.bench.machine import pick
    from harness.engine.bench.side_by_side import side_by_side

    for (config, asked), methods in groups.items():
        check(config, asked, methods)
    model, held = None, None
    for (config, asked), methods in groups.items():
        if held != (key := (config, asked.weights, asked.device)):
            model = None  # gives its memory back before the next one is built
            model, held = made(config, asked.weights, pick(asked.device)), key
        assert model is not None
        yield side_by_side(
            model, methods, asked.setting(), name=config.name, weights=asked.weights, largest=asked.largest
        )


def check(config: ModelConfig, asked: Asked, methods: Mapping[str, Pruner]) -> None:
    """Raise InputError if a model cannot be had, does not fit, or none of the methods can act on it."""
    from harness.engine.bench.machine import pick, require
    from pruners.base import PrunerError

    device = pick(asked.device)
    if asked.weights == "trained" and device == "meta":
        raise InputError("device=meta has no values, so weights= is random there")
    bare = made(config, "random", "meta")
    reasons = []
    for name, pruner in methods.items():
        try:
            pruner.check(bare.info)
        except PrunerError as error:
            reasons.append(f"{name}: {error}")
    if reasons and len(reasons) == len(methods):
        raise InputError("; ".join(reasons))
    require(bare, asked.setting(), device)


def made(config: ModelConfig, weights: str, device: str) -> Model:
    """The model. Raises InputError."""
    from harness.models import ModelUnavailable, load_model
    from harness.models.random import random_model

    common: dict[str, Any] = {
        "family": config.family, "revision": config.revision, "dtype": config.dtype, "device": device
    }  # fmt: skip
    try:
        if weights == "random":
            return random_model(config.path, clip_text=config.clip_text, **common)
        return load_model(config.path, **common, **config.options)
    except ModelUnavailable as error:
        raise InputError(str(error)) from None
