"""What is there and what is to come: rows for `status`, `plan` and `diff`. Reads folders only, loads no model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.benchmarks import scoring
from harness.benchmarks.judge import cost
from harness.runs.log import read_config, read_log
from harness.runs.scores import ScoreSpec, find_judge, read_scored, score_spec
from harness.runs.summary import failed, seconds, summarise
from harness.runs.typed import flatten

if TYPE_CHECKING:
    from harness.runs.cells import Cell

Row = dict[str, Any]
REPEAT = "repeat.json"
"""What `vtpbench repeat` keeps in the folder of a cell."""


def status_rows(results: Path) -> list[Row]:
    """One row per cell folder: samples logged, failures, and the last summary."""
    rows = []
    for file in sorted((results / "runs").glob("*/*/*/*/config.yaml")):
        records = read_scored(file.parent, ScoreSpec.read(file.parent))
        summary = read_summary(file.parent / "summary.json")
        rows.append({
            "cell": file.parent.relative_to(results / "runs").as_posix(),
            "samples": len(records),
            "of": summary.get("selected"),
            "failed": sum(map(failed, records.values())),
            "accuracy": summarise(records.values(), None, None)["accuracy"],
            "state": "complete" if summary.get("complete") and summary["selected"] <= len(records) else "unfinished",
        })  # fmt: skip
    return rows


def plan_rows(cells: Sequence[Cell]) -> list[Row]:
    """One row per cell: samples asked for, done, and what the rest will cost by what is known of such samples."""
    from harness.runs.selection import select

    rows, known = [], _costs(Path(cells[0].config.paths.results))
    judged = any(_needs_judge(cell) for cell in cells)
    for cell in cells:
        items, config = cell.benchmark.outlines(), cell.config
        wanted = {items[i].id for i in select(items, config.limit, config.subset)}
        records = read_log(cell.folder)
        done = sum(sample in wanted and repeat in config.draws for sample, repeat in records)
        rest = len(wanted) * len(config.draws) - done
        model, benchmark, method = cell.name.split("/")[:3]
        cost = known.get((model, benchmark, method)) or known.get((model, benchmark))
        rows.append({
            "cell": cell.name, "samples": len(wanted) * len(config.draws), "done": done,
            "seconds": rest * cost[0] if cost else None, "tflops": rest * cost[1] if cost else None,
            **(_judging(cell, wanted) if judged else {}),
        })  # fmt: skip
    return rows


def _needs_judge(cell: Cell) -> bool:
    return cell.config.judge.kind != "none" and cell.benchmark.scoring.rule in scoring.JUDGED


def _judging(cell: Cell, wanted: set[str]) -> Row:
    """Calls of the judge and their price, by the assumptions in its configuration."""
    if not _needs_judge(cell):
        return {"judge_calls": 0, "judge_usd": 0.0}
    spec = score_spec(cell, find_judge(cell.config.judge, Path(cell.config.paths.results)))
    known = read_scored(cell.folder, spec).items()
    settled = [key for key, record in known if failed(record) or record["value"] is not None]
    done = sum(sample in wanted and repeat in cell.config.draws for sample, repeat in settled)
    samples = len(wanted) * len(cell.config.draws) - done
    calls, _, dollars = cost(cell.config.judge, samples * scoring.CALLS.get(spec.scoring.rule, 1))
    return {"judge_calls": calls, "judge_usd": dollars}


def _costs(results: Path) -> dict[tuple[str, ...], tuple[float, float]]:
    """(seconds, TFLOPs) per sample measured so far, by (model, benchmark, method) and by (model, benchmark)."""
    found: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for folder in (results / "runs").glob("*/*/*/*"):
        good = [r for r in read_log(folder).values() if not failed(r)]
        costs = [(seconds(r), sum(r["flops"].values()) / 1e12) for r in good]
        names = folder.relative_to(results / "runs").parts
        for key in (names[:3], names[:2]) if costs else ():
            found.setdefault(key, []).extend(costs)
    return {key: (_mean(c[0] for c in costs), _mean(c[1] for c in costs)) for key, costs in found.items()}


def _mean(values: Iterator[float]) -> float:
    known = list(values)
    return sum(known) / len(known)


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
    """summary.json; empty if it is not there."""
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):  # not there yet, or damaged; the next run writes it anew
        return {}
    return found
