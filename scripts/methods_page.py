"""docs/methods.md, written from the classes of all methods.

python scripts/methods_page.py > docs/methods.md
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Sequence

from harness.golden import METHODS
from harness.models.known import KNOWN
from harness.runs.compose import Configs
from harness.runs.methods import Method, methods
from pruners.base import Pruner, PrunerError
from pruners.compose import Pipeline

HEAD = """# Methods

Written by `scripts/methods_page.py` from the classes; `vtpbench list pruners` prints where each can act. A method is
faithful by default: it does what the official code does, its bugs included. `pruner.repaired=true`, where there is
such a switch, does what the paper means. Golden vectors are inputs and outputs of official code; `python -m
harness.golden FILE...` compares.
"""


def page(found: Sequence[Method]) -> str:
    """The whole page."""
    classes: dict[type[Pruner], list[Method]] = {}
    for method in found:
        if method.pruner is not None and not isinstance(method.pruner, Pipeline):
            classes.setdefault(type(method.pruner), []).append(method)
    parts = [HEAD, *("\n".join(_section(cls, classes[cls], list(classes))) for cls in classes)]
    return "\n".join(parts)


def _section(cls: type[Pruner], named: Sequence[Method], every: Sequence[type[Pruner]]) -> Iterator[str]:
    yield f"## {cls.__name__}\n"
    options = (f"`addon={m.name[1:]}`" if m.name.startswith("+") else f"`pruner={m.name}`" for m in named)
    yield f"{', '.join(options)} · `{cls.__module__}`\n"
    yield "| | " + " | ".join(model.name for model in KNOWN) + " |"
    yield "|---|" + "---|" * len(KNOWN)
    for title, row in _rows(named[0].pruner):
        yield f"| {title} | " + " | ".join(row) + " |"
    yield ""
    golden = [name for name in METHODS if _verifies(name, cls, every)]
    yield f"- Golden vectors: {', '.join(golden) or 'none'}."
    fields = {field.name for field in dataclasses.fields(cls)}
    yield f"- Faithful by default{'; `repaired` has its bugs mended' if 'repaired' in fields else ''}.\n"
    yield inspect.cleandoc(cls.__doc__ or "").replace("\nAttributes:\n", "\nParameters:\n") + "\n"


def _rows(pruner: Pruner | None) -> Iterator[tuple[str, list[str]]]:
    """Moments, signals and position ids, model by model."""
    assert pruner is not None
    columns = []
    for model in KNOWN:
        try:
            acts = Method("", "", pruner).acts(model)
        except PrunerError as error:
            columns.append([f"no: {error}", "", ""])
            continue
        resolved = pruner.resolved(model)
        signals = "; ".join(f"`{signal}`" for signal in resolved.signals(model))
        columns.append([acts or "nothing", signals or "none", getattr(resolved, "positions", "see text")])
    for title, row in zip(("acts at", "reads", "position ids"), zip(*columns, strict=True), strict=True):
        yield title, [text.replace("|", "\\|") for text in row]


def _verifies(golden: str, cls: type[Pruner], every: Sequence[type[Pruner]]) -> bool:
    """Whether files of this name check the class: the longest class name that theirs begins with."""
    name = golden.removeprefix("E2E_").lower()
    fitting = [other for other in every if name.startswith(other.__name__.lower())]
    return bool(fitting) and max(fitting, key=lambda other: len(other.__name__)) is cls


if __name__ == "__main__":
    print(page(methods(Configs.find([]))), end="")
