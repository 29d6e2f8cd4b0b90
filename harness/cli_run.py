"""The verbs that compose a grid: run, check, fit; and list, which shows what it can be made of."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness import cli_plan
from harness.cli_shared import print_rows
from harness.runs.compose import Configs, compose_all, parse
from harness.runs.errors import InputError, Skip
from harness.runs.trusted import shown

if TYPE_CHECKING:
    from harness.runs.backend import Backend


def run(arguments: argparse.Namespace, backend: Backend | None) -> int:
    """Run the cells of a grid."""
    from harness.runs.backend import TorchBackend
    from harness.runs.cells import Resolver
    from harness.runs.run import run_cells

    backend = backend or TorchBackend()
    found = cli_plan.resolved(arguments, Resolver(backend))
    outcomes = run_cells(found.cells, backend)
    bad = [outcome for outcome in outcomes if outcome.failed]
    for outcome in bad:
        ended = outcome.summary or {}
        rate = f"{100 * ended.get('failure_rate', 0):.1f} % of its samples failed: {ended.get('first_error')}"
        print(shown(f"vtpbench: {outcome.cell.name}: {outcome.error or rate}"), file=sys.stderr)
    done = len(outcomes) - len(bad)
    results = Path(found.cells[0].config.paths.results) / "runs"
    print(f"{done} of {len(outcomes)} cells done, {len(found.skipped)} skipped; results in {results}", file=sys.stderr)
    return 1 if bad else 0


def check(arguments: argparse.Namespace, backend: Backend | None) -> int:
    """Check the data of benchmarks."""
    from harness.benchmarks.check import check as rows_of
    from harness.benchmarks.table import Table
    from harness.runs.cells import make_benchmark, parse_config

    rows = []
    for composed in compose_all(arguments.overrides, Configs.find(arguments.config_dir)):
        try:
            component = parse_config(composed).benchmark
        except Skip as skip:
            raise InputError(str(skip)) from None
        benchmark, _ = make_benchmark(component)
        if not isinstance(benchmark, Table):
            raise InputError(f"{component.name} is made by the program; there is no data to check")
        rows += [{"benchmark": component.name, **row} for row in rows_of(benchmark)]
    print_rows(rows)
    return int(not all(row["ok"] == "yes" for row in rows))


def fit(arguments: argparse.Namespace, backend: Backend | None) -> int:
    """Fit fitprune or vtw to a model on limit= samples (16), written to out=FILE for pruner.fit=FILE."""
    from harness.runs.backend import TorchBackend
    from harness.runs.cells import parse_config
    from harness.runs.fit import fit as fitted
    from pruners.base import PrunerError

    keys = parse(arguments.overrides)
    out = keys.pop("out", None)
    grid = compose_all([f"{key}={value}" for key, value in keys.items()], Configs.find(arguments.config_dir))
    if len(grid) != 1:
        raise InputError(f"fit takes one method, one model and one benchmark, got a grid of {len(grid)}")
    try:
        rows, line = fitted(parse_config(grid[0]), backend or TorchBackend(), Path(out) if out else None)
    except (Skip, PrunerError) as error:
        raise InputError(str(error)) from None
    print_rows(rows)
    print(line)
    if out:
        config = grid[0].choices
        print(f"written to {out}: vtpbench run pruner={config['pruner']} pruner.fit={out} model={config['model']} ...")
    return 0


def list_options(arguments: argparse.Namespace, backend: Backend | None) -> int:
    """Show every option of every group with the first line of its file; `pruners`: which method acts where."""
    configs = Configs.find(arguments.config_dir)
    if arguments.overrides == ["pruners"]:
        from harness.runs.methods import absent, matrix, methods

        rows, reasons = matrix(methods(configs))
        print_rows(rows)
        print("\n".join(["", *reasons, ""]))
        print_rows([{"not here": method.name, "why": method.reason} for method in absent()])
        return 0
    groups = configs.groups()
    if unknown := [name for name in arguments.overrides if name not in groups]:
        raise InputError(f"unknown group {unknown[0]!r}; known: {', '.join(groups)}, pruners (which acts where)")
    for group in arguments.overrides or groups:
        print(f"{group}=")
        options = configs.options(group)
        width = max(map(len, options), default=0)
        for name, file in options.items():
            first = file.read_text(encoding="utf-8").partition("\n")[0]
            print(f"  {name:<{width}}  {first.removeprefix('#').strip() if first.startswith('#') else ''}".rstrip())
    return 0
