"""Plain values into typed dataclasses: unknown keys and wrong types become one-line errors."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Collection, Iterator, Mapping
from fractions import Fraction
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from harness.runs.errors import InputError

T = TypeVar("T")


def build(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """An instance of a dataclass from plain values.

    Raises:
        InputError: a key that the class lacks, a value of the wrong type, or a missing one.
    """
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    check_keys(values, fields, where)
    required = [n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING]
    missing = [path(where, n) for n in required if n not in values]
    if missing:
        raise InputError(f"{', '.join(missing)}= is missing")
    hints = get_type_hints(cls)
    return cls(**{key: convert(value, hints[key], path(where, key)) for key, value in values.items()})


def check_keys(values: Collection[str], known: Collection[str], where: str) -> None:
    """Raise InputError for the first key that is not known."""
    for key in values:
        if key not in known:
            raise InputError(f"unknown key {path(where, key)}; known: {', '.join(sorted(known)) or 'none'}")


def path(where: str, key: str) -> str:
    """Dotted name of a key."""
    return f"{where}.{key}" if where else key


def convert(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type `hint`; types that configs cannot write pass unchecked.

    Raises:
        InputError: the value is of another type.
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        for option in args:
            try:
                return convert(value, option, where)
            except InputError:
                continue
    elif origin is Literal:
        if value in args:
            return value
    elif origin is tuple and isinstance(value, list | tuple):
        return tuple(convert(v, args[0], where) for v in value)
    elif dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return build(hint, value, where)  # type: ignore[arg-type]
    elif hint is float:
        try:
            if isinstance(value, int | float | str) and not isinstance(value, bool):
                return float(Fraction(value)) if isinstance(value, str) else float(value)
        except (ValueError, ZeroDivisionError):
            pass
    elif hint in (int, str, bool, type(None)):
        if type(value) is hint:
            return value
    elif origin is not tuple and not dataclasses.is_dataclass(hint):
        return value
    raise InputError(f"{where} must be {_describe(hint)}, got {value!r}")


def _describe(hint: Any) -> str:
    args = get_args(hint)
    if get_origin(hint) is Literal:
        return " or ".join(map(str, args))
    if get_origin(hint) is tuple:
        return f"a list of {_describe(args[0])}"
    if args:
        return " or ".join(_describe(a) for a in args)
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    return names.get(hint, "a group of keys")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested configuration under dotted names."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
