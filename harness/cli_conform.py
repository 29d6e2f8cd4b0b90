"""The verb `conform`: whether a method holds what every method must, on the tiny models."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from harness.cli_shared import terminal
from harness.runs.compose import Configs, compose_all, parse
from harness.runs.errors import InputError, Skip
from harness.runs.trusted import shown

if TYPE_CHECKING:
    from rich.table import Table

    from harness.conform import Check
    from harness.runs.backend import Backend

CHECKED = {
    "runs": "every prompt is answered, and no signal read that is not declared",
    "selections": "tokens of the view, once each, in order, under valid position ids",
    "inputs": "what it is given stays as it was",
    "budget": "no more tokens than count() says",
    "repeatable": "the same again, to the last count",
    "batch": "the same alone and in company",
    "text": "without a picture nothing changes",
    "costs": "FLOPs of its rule and signals in prefill are those that torch counts",
    "keep=1": "all tokens give the full model's reply",
}
EPILOGS = {
    "conform": "examples:\n"
    "  vtpbench conform pruner._target_=mymodule.LargestNorm keep=1/3\n"
    "  vtpbench conform pruner=fastv addon=dstp keep=1/3 model=tiny_llava\n\n"
    "Method and models as for run; without model= the tiny models, in float32 on the CPU.\n\n"
    "checked on prompts of none to three pictures of different sizes, on InternVL of several tiles:\n"
    + "\n".join(f"  {name:<12} {text}" for name, text in CHECKED.items())
}


def conform(arguments: argparse.Namespace, backend: Backend | None) -> int:
    """Run a method on the tiny models and check what every method must hold; exit code 1 if it does not."""
    from harness.conform import conform as checks
    from harness.models import ModelUnavailable, hide_progress, load_model
    from harness.runs.cells import make_pruner, parse_config

    configs = Configs.find(arguments.config_dir)
    overrides = list(arguments.overrides)
    if "model" not in parse(overrides):
        overrides.append("model=" + ",".join(name for name in configs.options("model") if name.startswith("tiny_")))
    found: dict[str, list[Check]] = {}
    methods = set()
    hide_progress()
    for composed in compose_all(overrides, configs):
        try:
            config = parse_config(composed)
            pruner, model = make_pruner(config), config.model
            methods.add(pruner)
            if len(methods) > 1:
                raise InputError("conform takes one method")
            loaded = load_model(model.path, family=model.family, revision=model.revision, **model.options)
        except (Skip, ModelUnavailable) as error:
            raise InputError(str(error)) from None
        found[model.name] = list(checks(loaded, pruner))
    with terminal() as console:
        console.print(_table(found))
    for name, own in found.items():
        for check in own:
            if check.ok is not True or check.why:
                said = {True: "note", False: "failed", None: "not checked"}[check.ok]
                print(shown(f"{said}: {name}: {check.name}: {check.why}"))
    if all(own[0].ok is None for own in found.values()):
        raise InputError("the method acts on none of these models")
    return int(any(check.ok is False for own in found.values() for check in own))


def _table(found: dict[str, list[Check]]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table("check", *found, box=box.SIMPLE_HEAD, pad_edge=False)
    for name in CHECKED:
        known = [{check.name: check.ok for check in own}.get(name) for own in found.values()]
        table.add_row(name, *({True: "ok", False: "failed", None: "-"}[ok] for ok in known))
    return table
