"""The verbs on stored cells: score, export, status, diff."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli_shared import RESULTS, print_rows, results_of
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
    check_keys(keys, RESULTS, "")
    results = results_of(keys)
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
