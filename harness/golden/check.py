"""One file, one verdict."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from harness.golden import (
    cache_rules,
    clip_rules,
    crop_rules,
    decoder,
    drop_rules,
    fit_rules,
    layer_rules,
    merge_rules,
    rules,
    sparse_rules,
    tower_rules,
)
from harness.golden.compare import Golden, arrays

METHODS: dict[str, Callable[[Golden], None]] = {
    "FastV": rules.fastv,
    "DivPrune": rules.divprune,
    "VisionZip": rules.visionzip,
    "VisionZipNeXT": rules.visionzip_next,
    "VisionZipQwen": rules.visionzip_qwen,
    "VisionPulse": rules.visionpulse,
    "E2E_weights": decoder.weights,
    "E2E_baseline": decoder.baseline,
    "E2E_FastV": decoder.fastv,
    "E2E_FastVlmms": decoder.fastv_lmms,
    **tower_rules.METHODS,
    **layer_rules.METHODS,
    **sparse_rules.METHODS,
    **clip_rules.METHODS,
    **fit_rules.METHODS,
    **crop_rules.METHODS,
    **cache_rules.METHODS,
    **drop_rules.METHODS,
    **merge_rules.METHODS,
}
"""How the files of a method are checked; a new method joins by one line here or in the module of its rule."""


def method_of(path: str | Path) -> str:
    """The method that a file name begins with; everything else about a case is in the file itself."""
    return Path(path).stem.partition("_seed")[0]


def check_file(path: str | Path) -> dict[str, Any]:
    """The verdict on one file, with a `reason` where it is not ok; never raises for what the file holds."""
    name = method_of(path)
    verdict: dict[str, Any] = {"file": str(path), "method": name, "keys": [], "max_error": None, "ok": False}
    if name not in METHODS:
        return {**verdict, "reason": f"unknown method {name!r}; known: {', '.join(METHODS)}"}
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            golden = Golden(Path(path), arrays(Path(path)))
            METHODS[name](golden)
    except Exception as error:  # damage has many faces: truncated archives, missing keys, sizes that do not fit
        text = str(error).strip().splitlines() or [""]
        return {**verdict, "reason": f"{type(error).__name__}: {text[0]}"[:300]}
    verdict["keys"] = golden.keys
    verdict["max_error"] = golden.max_error if math.isfinite(golden.max_error) else None
    unread = sorted(key for key in golden.data if key.startswith("out_") and key not in golden.keys)
    if unread:
        golden.wrong.append(f"not compared: {', '.join(unread)}")
    verdict["ok"] = not golden.wrong
    if golden.wrong:
        verdict["reason"] = "; ".join(golden.wrong)
    if golden.notes:
        verdict["note"] = "; ".join(golden.notes)
    return verdict
