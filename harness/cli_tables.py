"""The verbs that print tables: `table`, `published`, `reproduce`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from harness.runs.compose import Configs, parse, split
from harness.runs.errors import InputError
from harness.runs.typed import check_keys, convert

if TYPE_CHECKING:
    from harness.runs.backend import Backend

LEADERBOARD_KEYS = ("paths.results", "model", "benchmark", "protocol", "against", "margin", "to", "made_by")
PIVOT_KEYS = ("rows", "cols", "metric", "budget")
PUBLISHED_KEYS = ("benchmark", "to")
REPRODUCE_KEYS = ("paths.results", "model", "benchmark", "pruner", "to")


class Printable(Protocol):
    """A table that can be shown in a terminal and as text."""

    def print(self) -> None: ...
    def to_markdown(self) -> str: ...
    def to_csv(self) -> str: ...
    def to_latex(self) -> str: ...


def table(arguments: argparse.Namespace, backend: Backend | None) -> int:
    """Print the leaderboard, or with any of rows=, cols=, metric=, budget= a table of those; `to=` writes it to a file.

    The table names the command that makes it again; `made_by=` names another one, which also made the runs.
    """
    from harness.tables import leaderboard
    from harness.tables.pivot import pivot

    keys = parse(arguments.overrides)
    check_keys(keys, (*LEADERBOARD_KEYS, *PIVOT_KEYS), "")
    to = _form(keys)
    asked = {key: keys[key] for key in PIVOT_KEYS if key in keys}
    make = pivot if asked else leaderboard
    found = make(
        _results(keys), models=_names(keys, "model"), benchmarks=_names(keys, "benchmark"),
        protocol=keys.get("protocol"), margin=convert(keys.get("margin", 1.0), float, "margin"),
        against=keys.get("against", "full"),
        command=keys.get("made_by") or " ".join(["vtpbench table", *arguments.overrides]), **asked,
    )  # fmt: skip
    _show(found, to)
    return 0


def published(arguments: argparse.Namespace, backend: Backend | None) -> int:
    """Print published numbers of a method, a model, or both; without either, what there is."""
    from harness.tables.published_view import published_table

    names, keys = split(arguments.overrides)
    check_keys(keys, PUBLISHED_KEYS, "")
    to = _form(keys)
    if len(names) > 2:
        raise InputError(f"published takes a method and a model, got {', '.join(names)}")
    _show(published_table(*names, benchmark=keys.get("benchmark")), to)
    return 0


def reproduce(arguments: argparse.Namespace, backend: Backend | None) -> int:
    """Set own runs beside the published rows of experiments."""
    from harness.tables.reproduction import reproduction

    names, keys = split(arguments.overrides)
    check_keys(keys, REPRODUCE_KEYS, "")
    to = _form(keys)
    configs = Configs.find(arguments.config_dir)
    if not names:
        raise InputError(f"reproduce needs experiments; known: {', '.join(configs.options('experiment'))}")
    wanted = {key: _names(keys, key) for key in ("model", "benchmark", "pruner")}
    _show(reproduction(names, configs, _results(keys), tiny=arguments.tiny, **wanted), to)
    return 0


FORMS: dict[str, Callable[[Printable], str]] = {
    "md": lambda table: table.to_markdown(),
    "csv": lambda table: table.to_csv(),
    "tex": lambda table: table.to_latex(),
}


def _form(keys: Mapping[str, str]) -> str | None:
    """The kind of text that `to=` asks for; checked before any work is done."""
    to = keys.get("to")
    if to is not None and to.rpartition(".")[2] not in FORMS:
        raise InputError(f"to= must be md, csv, tex, or a file with such an ending, got {to!r}")
    return to


def _show(found: Printable, to: str | None) -> None:
    if to is None:
        found.print()
        return
    text = FORMS[to.rpartition(".")[2]](found)
    if to in FORMS:
        print(text, end="")
    else:
        _write(Path(to), text)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


def _results(keys: Mapping[str, str]) -> Path:
    return Path(keys.get("paths.results", "results"))


def _names(keys: Mapping[str, str], key: str) -> tuple[str, ...]:
    if key not in keys:
        return ()
    names = tuple(keys[key].split(","))
    if not all(names):
        raise InputError(f"{key}= is empty")
    return names
