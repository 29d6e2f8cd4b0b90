"""The verbs on stored cells: score, export, status, diff."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.runs.compose import Configs, parse, split
from harness.runs.errors import InputError
from harness.runs.trusted import shown
from harness.runs.typed import check_keys

if TYPE_CHECKING:
    from harness.runs.backend import Backend


def score(arguments: argparse.Namespace, backend: Backend | None) -> int:
    """Score stored replies again."""
    from harness.runs.rescore import CHANGES, cell_folders, judge_config, rescore, results_of
    from harness.runs.scores import find_judge

    paths, keys = split(arguments.overrides)
    check_keys([key for key in keys if key.partition(".")[0] != "judge"], (*CHANGES, "judge"), "")
    if not paths:
        raise InputError("score needs cell folders, or a folder above them such as results/runs")
    judging = [f"{key}={value}" for key, value in keys.items() if key.partition(".")[0] == "judge"]
    config = judge_config(judging, Configs.find(arguments.config_dir))
    folders = cell_folders(paths)
    judge = find_judge(config, results_of(folders[0]))
    rows = list(rescore(folders, keys, judge, config.concurrency, keep_judge=not judging))
    print_rows(rows)
    if judge and not any(row["judge"] == judge.identity["model"] for row in rows):
        print("no rule of these cells asks a judge", file=sys.stderr)
    return int(judge is not None and any(row["unjudged"] for row in rows))


def export(arguments: argparse.Namespace, backend: Backend | None) -> int:
    """Write stored replies in the result format of another kit, for its scorers."""
    from harness.runs.export import export as rows_of
    from harness.runs.rescore import cell_folders

    paths, keys = split(arguments.overrides)
    check_keys(keys, ("to", "out", "fill", "benchmark.data"), "")
    if not paths:
        raise InputError("export needs cell folders, or a folder above them such as results/runs")
    if keys.get("fill", "false") not in ("true", "false"):
        raise InputError(f"fill must be true or false, got {keys['fill']}")
    to = keys.get("to", "")
    out, data = Path(keys.get("out", f"results/export/{to}")), keys.get("benchmark.data")
    print_rows(list(rows_of(cell_folders(paths), to, out, fill=keys.get("fill") == "true", data=data)))
    return 0


def status(arguments: argparse.Namespace, backend: Backend | None) -> int:
    """Show all cells of the results folder."""
    from harness.runs.overview import status_rows

    keys = parse(arguments.overrides)
    check_keys(keys, ("paths.results",), "")
    results = Path(keys.get("paths.results", "results"))
    rows = status_rows(results)
    if not rows:
        raise InputError(f"no runs under {results / 'runs'}")
    print_rows(rows)
    return 0


def diff(arguments: argparse.Namespace, backend: Backend | None) -> int:
    """Compare two cells."""
    from harness.runs.overview import diff as compare

    if len(arguments.overrides) != 2:
        raise InputError("diff needs two cell folders, results/runs/<model>/<benchmark>/<method>/<decoding>-<hash>")
    print("\n".join(map(shown, compare(*map(Path, arguments.overrides)))))
    return 0


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """Rows as plain text, one line each whatever the width of the terminal; numbers to the right."""
    lines = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    left = [isinstance(value, str) for value in rows[0].values()]
    for line in lines:
        cells = zip(line, widths, left, strict=True)
        print("  ".join(text.ljust(w) if to_left else text.rjust(w) for text, w, to_left in cells).rstrip())


def _text(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else shown(str(value))
