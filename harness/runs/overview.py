"""What is there: rows for `status`, lines for `diff`. Reads folders only, loads no model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from harness.runs.log import read_config, read_json
from harness.runs.scores import ScoreSpec, read_scored
from harness.runs.summary import failed, summarise
from harness.runs.typed import flatten

Row = dict[str, Any]
REPEAT = "repeat.json"
"""What `vtpbench repeat` keeps in the folder of a cell."""


def status_rows(results: Path) -> list[Row]:
    """One row per cell folder: samples logged, failures, and the last summary."""
    rows = []
    for file in sorted((results / "runs").glob("*/*/*/*/config.yaml")):
        records = read_scored(file.parent, ScoreSpec.read(file.parent))
        summary = read_summary(file.parent / "summary.json")
        selected = summary.get("selected")
        rows.append({
            "cell": file.parent.relative_to(results / "runs").as_posix(),
            "samples": len(records),
            "of": selected and max(selected, len(records)),  # the last command may have asked for fewer
            "failed": sum(map(failed, records.values())),
            "accuracy": summarise(records.values(), None, None)["accuracy"],
            "state": "complete" if summary.get("complete") and summary["selected"] <= len(records) else "unfinished",
        })  # fmt: skip
    return rows


def diff(left: Path, right: Path) -> list[str]:
    """Lines that say in what two cells differ: configuration, then replies to their common samples."""
    configs = [dict(flatten(read_config(folder))) for folder in (left, right)]
    keys = sorted(set(configs[0]) | set(configs[1]))
    lines = [
        f"{key}: {configs[0].get(key)} | {configs[1].get(key)}"
        for key in keys
        if not key.startswith(("hash", "identity.")) and configs[0].get(key) != configs[1].get(key)
    ]
    a, b = (read_scored(folder, ScoreSpec.read(folder)) for folder in (left, right))
    pairs = [(a[key], b[key]) for key in sorted(a.keys() & b.keys()) if not (failed(a[key]) or failed(b[key]))]
    same = sum(x["text"] == y["text"] for x, y in pairs)
    lines.append(f"common samples: {len(pairs)}, the same reply: {same}")
    for title, found in (
        ("only the first is right", [x for x, y in pairs if (x["value"] or 0) > (y["value"] or 0)]),
        ("only the second is right", [x for x, y in pairs if (x["value"] or 0) < (y["value"] or 0)]),
    ):
        names = ", ".join(x["id"] for x in found[:10])
        lines.append(f"{title} (or better): {len(found)}{f' ({names})' if names else ''}")
    for title, folder in (("first", left), ("second", right)):
        if not math.isnan(share := read_noise(folder)):
            lines.append(f"answers that flip when the {title} runs again: {100 * share:.1f} %")
    return lines


def read_noise(folder: Path) -> float:
    """The noise floor that `vtpbench repeat` found for a cell: a share of its samples, NaN if it was not measured."""
    try:
        return float(json.loads((folder / REPEAT).read_text())["noise"])
    except (OSError, ValueError, KeyError, TypeError):
        return math.nan


def read_summary(file: Path) -> dict[str, Any]:
    """summary.json; empty if it is not there, or damaged."""
    found = read_json(file)
    return found if isinstance(found.get("selected", 0), int) else {}
