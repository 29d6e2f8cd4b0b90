"""What comes from files is not trusted: classes that they name, names that become folders, texts that are printed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from harness.runs.errors import InputError

OWN = ("harness", "pruners")
"""Packages whose classes any configuration file may name."""
ESCAPED = ("Cc", "Cf", "Zl", "Zp", "Cs")
"""Unicode categories that can move the cursor, turn text around, start a line or not be encoded."""


def typed_targets(overrides: Mapping[str, str]) -> set[str]:
    """Classes that a command line names itself; a superset, as words of its syntax are no classes."""
    keyed = (text for key, text in overrides.items() if key.endswith("_target_"))
    inside = (match for text in overrides.values() for match in re.findall(r"_target_\W+([\w.]+)", text))
    return {word for text in (*keyed, *inside) for word in re.findall(r"[\w.]+", text)}


def check_targets(values: Any, allowed: Collection[str], where: str = "") -> None:
    """Raise InputError for a class of another package that a configuration file names. Imports nothing.

    Args:
        values: plain configuration.
        allowed: classes, or packages, that the command line names.
    """
    for key, target in _targets(values, where):
        package = str(target).partition(".")[0]
        if target is not None and not {package, str(target)} & {*OWN, *allowed}:
            raise InputError(
                f"{key}={target} stands in a configuration file and is a class of neither harness nor pruners: "
                f"allow={package} permits it"
            )


def _targets(tree: Any, where: str) -> Iterator[tuple[str, Any]]:
    entries = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    for key, value in entries:
        here = f"{where}.{key}" if where else str(key)
        if key == "_target_":
            yield here, value
        yield from _targets(value, here)


def check_name(name: str, where: str) -> str:
    """A name that can be one folder; raises InputError for any other."""
    if not name.strip(". ") or len(name.encode()) > 120 or "/" in name or "\\" in name or name != shown(name):
        short = shown(name if len(name) <= 80 else f"{name[:80]}...")
        raise InputError(f"{where} must be a short name without slashes and control characters, got {short!r}")
    return name


def shown(text: str) -> str:
    """Text for a terminal, in one line: control characters are spelt out as in Python (\\n, \\x1b)."""
    return text if text.isprintable() else "".join(map(_spelt, text))


def _spelt(character: str) -> str:
    return ascii(character)[1:-1] if unicodedata.category(character) in ESCAPED else character
