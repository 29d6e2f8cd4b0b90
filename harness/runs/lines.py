"""What the files of a cell must hold, so that a damaged one is named before anything is computed from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import NoneType
from typing import Any

NUMBER, MAYBE, PARTS = (int, float), (int, float, NoneType), (dict,)
Kinds = Mapping[str, tuple[type, ...]]
"""Types of fields."""

IDS: Kinds = {"id": (str,)}
"""Of any line."""
SAMPLE: Kinds = {
    "id": (str,), "repeat": (int,), "text": (str,), "finish": (str,), "code": (str,),
    "answer": (str,), "category": (str,), "cluster": (str,), "meta": (dict, NoneType),
    "thinking_tokens": (int,), "answer_tokens": (int,), "visual_tokens": (int,),
    "ret_prefill": MAYBE, "ret_decode": MAYBE, "kv": MAYBE, "flops": PARTS, "kv_bytes": PARTS,
    "prefill_seconds": NUMBER, "decode_seconds": NUMBER,
}  # fmt: skip
SCORE: Kinds = {"id": (str,), "repeat": (int,), "reply": (str,), "value": MAYBE, "lenient": MAYBE}


def wrong_field(line: Any, kinds: Kinds, needed: Collection[str]) -> str | None:
    """What is wrong with a line of a log, if anything; fields that are not `needed` may be missing."""
    if not isinstance(line, dict):
        return "it is no object"
    for name, kind in kinds.items():
        if name not in line:
            if name in needed:
                return f"{name} is missing"
        elif not isinstance(line[name], kind):
            return f"{name} cannot be {str(line[name])[:40]!r}"
        elif kind == PARTS and not all(isinstance(part, NUMBER) for part in line[name].values()):
            return f"{name} holds what is no number"
    return None


def check_config(config: Any) -> None:
    """Raise TypeError if config.yaml does not have the form that runs write."""
    if not isinstance(config, dict):
        raise TypeError("it is no group of keys")
    for name in ("identity", "model", "benchmark", "protocol"):
        if not isinstance(config.get(name), dict):
            raise TypeError(f"{name} is missing or no group of keys")
    for name in ("keep", "tokens"):
        if not isinstance(config.get(name), MAYBE):
            raise TypeError(f"{name} is no number")
