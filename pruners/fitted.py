"""What `vtpbench fit` has found out on a few samples, read from its file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from pruners.base import PrunerError

Rows = list[list[float]]


def read_fit(path: str, method: str, key: str, depth: int) -> Rows:
    """The rows that a file holds under `key`, a number for each of `depth` layers.

    Raises:
        PrunerError: it cannot be read, is no such file, or is of another method or of a model of another depth.
    """
    try:
        found: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        made_for, layers = found["method"], found["depth"]
        rows = [[float(value) for value in row] for row in found[key]] if made_for == method else []
    except OSError as error:
        raise PrunerError(f"cannot read the fit {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise PrunerError(f"{path} does not hold a fit of {method} ({error!r})") from None
    if made_for != method:
        raise PrunerError(f"{path} is a fit of {made_for}, not of {method}")
    if int(layers) != depth:
        raise PrunerError(f"{path} was fitted on a model of {layers} layers, this one has {depth}")
    if not rows or any(len(row) != depth or not all(map(math.isfinite, row)) for row in rows):
        raise PrunerError(f"{path} is damaged: {key} does not have {depth} numbers in each row")
    return rows
