"""The verb `repeat`: how much of a stored cell changes when it is run again as it is."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli_shared import epilog, terminal
from harness.runs.compose import split
from harness.runs.errors import InputError
from harness.runs.typed import check_keys

if TYPE_CHECKING:
    from harness.runs.backend import Backend

KEYS = {
    "n": "runs with each number of slots (3)",
    "slots": "numbers of samples decoded together, with commas (1,16)",
    "limit": "samples, chosen as run chooses them; all that have a reply",
    "allow": "packages, besides harness and pruners, whose classes the cell may name",
}
EPILOGS = {
    "repeat": epilog(KEYS, "repeat results/runs/tiny_qwen3_vl/glyph_walk/fastv@0.333/greedy-0a1b2c3d n=3 slots=1,16")
}


def repeat(arguments: argparse.Namespace, backend: Backend | None) -> int:
    """Run a cell again and keep how many answers flip, which tables print beside differences."""
    from harness.runs.backend import TorchBackend
    from harness.runs.environment import code_hash
    from harness.runs.log import write_atomically
    from harness.runs.overview import REPEAT
    from harness.runs.repeat import runs, samples, stored_cell
    from harness.tables import noise

    paths, keys = split(arguments.overrides)
    check_keys(keys, KEYS, "")
    if len(paths) != 1:
        raise InputError("repeat needs one cell folder, results/runs/<model>/<benchmark>/<method>/<decoding>-<hash>")
    (n,), slots = _counts(keys.get("n", "3"), "n"), _counts(keys.get("slots", "1,16"), "slots")
    limit = _counts(keys["limit"], "limit")[0] if "limit" in keys else None
    if n * len(slots) < 2:
        raise InputError("one run has nothing to be compared with: n=2, or two numbers of slots")
    folder, backend = Path(paths[0]), backend or TorchBackend()
    cell = stored_cell(folder, backend, keys.get("allow", "").split(","))
    asked = samples(folder, cell, limit)
    cluster = {item.id: item.cluster or item.id for item in cell.benchmark.outlines()}
    found = noise.flips(runs(folder, cell, backend, asked, n, slots), slots, cluster)
    kept = {"noise": noise.noise(found), "n": n, "slots": slots, "code": code_hash(cell.pruner, backend.versions()),
            "asked": len(asked), "flips": noise.plain(found)}  # fmt: skip
    write_atomically(folder / REPEAT, json.dumps(kept, indent=2) + "\n")
    with terminal() as console:
        console.print(noise.table(found, cell.name))
    return 0


def _counts(text: str, key: str) -> list[int]:
    """Whole numbers from 1 on, equal ones once; only `slots` has several."""
    words = text.split(",")
    if not all(word.isdecimal() and int(word) >= 1 for word in words) or (len(words) > 1 and key != "slots"):
        what = "whole numbers of at least 1, with commas" if key == "slots" else "a whole number of at least 1"
        raise InputError(f"{key} must be {what}, got {text!r}")
    return list(dict.fromkeys(map(int, words)))
