"""Classes named by `_target_`, made from checked parameters."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Mapping
from typing import Any, get_type_hints

from harness.runs.config import Component
from harness.runs.errors import InputError
from harness.runs.trusted import OWN
from harness.runs.typed import check_keys, convert, path


def find(target: str, where: str) -> type:
    """The class that a dotted path names, on the Python path or in the current folder."""
    module, _, name = target.rpartition(".")
    if module.partition(".")[0] not in OWN and "" not in sys.path:
        sys.path.append(
            ""
        )  # a class beside the user, whom an installed program does not look for; last, to hide nothing
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the module runs into
        reason = str(error) if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: {error}"
        raise InputError(f"{where}._target_={target} cannot be imported: {' '.join(reason.split())}") from None
    if not dataclasses.is_dataclass(found) or not isinstance(found, type):
        raise InputError(f"{where}._target_={target} is not a dataclass")
    return found


def fields(cls: type) -> set[str]:
    """Names of the parameters of a class that a configuration may set."""
    return {f.name for f in dataclasses.fields(cls) if f.init and f.repr}


def make(component: Component, where: str, **given: Any) -> Any:
    """An instance of the component's class; `given` are parameters that do not come from the configuration.

    Raises:
        InputError: no such class or parameter, one is missing, or a value is of the wrong type or refused by the class.
    """
    assert component.target is not None
    cls = find(component.target, where)
    known = fields(cls)
    check_keys(component.params, known - given.keys(), where)
    needed = [f.name for f in dataclasses.fields(cls) if f.init and f.default is f.default_factory]  # both are MISSING
    if absent := [name for name in needed if name not in component.params.keys() | given.keys()]:
        raise InputError(f"{path(where, absent[0])}= is missing")
    hints = get_type_hints(cls)
    params = {k: _value(v, hints[k], path(where, k)) for k, v in component.params.items()}
    try:
        return cls(**params, **given)
    except (TypeError, ValueError) as error:
        raise InputError(f"{component.name}: {error}") from error


def _value(value: Any, hint: Any, where: str) -> Any:
    """A parameter; dictionaries with `_target_`, also inside lists, become instances."""
    if isinstance(value, Mapping) and "_target_" in value:
        rest = {k: v for k, v in value.items() if k != "_target_"}
        return make(Component(where, value["_target_"], rest), where)
    if isinstance(value, list) and any(isinstance(v, Mapping) for v in value):
        return tuple(_value(v, Any, where) for v in value)
    return convert(value, hint, where)
