"""The command line: `vtpbench VERB [key=value ...]`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import (
    cli_conform,
    cli_efficiency,
    cli_figure,
    cli_plan,
    cli_repeat,
    cli_report,
    cli_share,
    cli_tables,
)
from harness.benchmarks.errors import DataError
from harness.runs.compose import Configs, compose_all, parse, split
from harness.runs.errors import InputError, Skip, Stopped
from harness.runs.signals import Interrupted, terminable
from harness.runs.trusted import shown
from harness.runs.typed import check_keys

if TYPE_CHECKING:
    from harness.runs.backend import Backend

EPILOG = """\
examples:
  vtpbench run pruner=none,fastv,random keep=1/3,1/9 benchmark=glyph_walk limit=200
  vtpbench run experiment=quickstart
  vtpbench run pruner._target_=mypackage.MyPruner keep=1/3
  vtpbench plan experiment=quickstart
  vtpbench table benchmark=glyph_walk to=leaderboard.md
  vtpbench reproduce dstp_table1
  vtpbench published fastv llava_1_5_7b

Commas, range() and glob() span a grid. The same command again finishes what is missing.
`vtpbench list` shows models, methods, benchmarks and experiments; conf/run.yaml explains every key.
"""

MODULES = (cli_conform, cli_efficiency, cli_figure, cli_plan, cli_repeat, cli_report, cli_share, cli_tables)
ARGUMENTS = {
    "diff": "FOLDER", "repeat": "FOLDER or key=value", "score": "FOLDER or key=value", "export": "FOLDER or key=value",
    "analyze": "KIND or key=value", "published": "METHOD, MODEL or key=value", "reproduce": "EXPERIMENT or key=value",
    "report": "compare SAMPLE_ID or key=value",
    "submit": "FOLDER or key=value", "verify": "BUNDLE or key=value",
}  # fmt: skip


def main(argv: Sequence[str] | None = None, backend: Backend | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 (something failed while running), 2 (bad input), 130
    or 143 (interrupted by SIGINT or SIGTERM).

    Args:
        argv: arguments without the program's name.
        backend: replaces the models and the engine, for tests.
    """
    try:
        try:
            return _main(argv, backend)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _main(argv: Sequence[str] | None, backend: Backend | None) -> int:
    arguments = _parse(argv)
    try:
        with terminable():
            return int(arguments.verb(arguments, backend))
    except (InputError, DataError) as error:
        print(f"vtpbench: {shown(str(error))}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(f"vtpbench: {stopped}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print("vtpbench: interrupted; the same command goes on from here", file=sys.stderr)
        return 143 if isinstance(interrupt, Interrupted) else 130


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if options := [text for text in rest if text.startswith("-")]:
        parser.error(f"unknown option {options[0]}")
    arguments.overrides += rest  # key=value after an option
    return arguments


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "vtpbench", description="Benchmarks of visual token pruning.", epilog=EPILOG, formatter_class=form
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    epilogs = {name: text for module in MODULES for name, text in module.EPILOGS.items()}
    for name, verb, text in (
        ("run", run, "run a grid of cells; finished samples are never run again"),
        ("plan", cli_plan.plan, "show the cells of a grid, what is done and what the rest will cost"),
        ("score", score, "score stored replies again: another rule (rule=), or a judge (judge=)"),
        ("export", export, "write stored replies in another kit's format (to=vlmevalkit or to=lmms_eval)"),
        ("repeat", cli_repeat.repeat, "run a cell n= times again with slots=, and count the answers that flip"),
        ("check", check, "check a benchmark's data: schema, revision, number of rows"),
        ("fit", fit, "find FitPrune's schedule or VTW's layer on limit= samples (16); out=FILE keeps it"),
        (
            "efficiency",
            cli_efficiency.efficiency,
            "measure what methods save, beside the unpruned model",
        ),
        ("analyze", cli_tables.analyze, "measure and draw what papers show: on stored runs, or the tiny models"),
        ("table", cli_tables.table, "print the leaderboard, or a table of rows= and cols="),
        ("figure", cli_figure.figure, "draw accuracy against retention, FLOPs and seconds, with fronts"),
        ("published", cli_tables.published, "show published numbers: of a method, of a model, of both"),
        ("reproduce", cli_tables.reproduce, "set own runs beside the published table of an experiment"),
        ("report", cli_report.report, "write one HTML file: leaderboard, figures, samples; or compare SAMPLE_ID"),
        ("conform", cli_conform.conform, "check that a method holds what every method must, on the tiny models"),
        ("submit", cli_share.submit, "write finished cells as one file to give away (to=bundle.zip)"),
        ("verify", cli_share.verify, "check a bundle that somebody else made; to=FOLDER unpacks it"),
        ("status", status, "show all cells of the results folder"),
        ("list", list_options, "show models, methods, benchmarks, experiments"),
        ("diff", diff, "compare two cell folders: configuration and replies"),
    ):
        description, epilog = f"{text[0].upper()}{text[1:]}.", epilogs.get(name)
        sub = verbs.add_parser(name, help=text, description=description, epilog=epilog, formatter_class=form)
        sub.add_argument("overrides", nargs="*", metavar=ARGUMENTS.get(name, "key=value"))
        sub.add_argument("--config-dir", action="append", default=[], help="a folder with groups of your own")
        sub.add_argument("-m", "--multirun", action="store_true", help="accepted for Hydra habits; changes nothing")
        sub.set_defaults(verb=verb)
        if name in ("run", "plan"):
            sub.add_argument("--skipped", action="store_true", help="list every skipped cell, not only the reasons")
        if name == "reproduce":
            sub.add_argument("--tiny", action="store_true", help="the tiny models and glyph benchmarks that stand in")
    return parser


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
    _print(rows)
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
    _print(list(rows_of(cell_folders(paths), to, out, fill=keys.get("fill") == "true", data=data)))
    return 0


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
    _print(rows)
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
    _print(rows)
    print(line)
    if out:
        config = grid[0].choices
        print(f"written to {out}: vtpbench run pruner={config['pruner']} pruner.fit={out} model={config['model']} ...")
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
    _print(rows)
    return 0


def diff(arguments: argparse.Namespace, backend: Backend | None) -> int:
    """Compare two cells."""
    from harness.runs.overview import diff as compare

    if len(arguments.overrides) != 2:
        raise InputError("diff needs two cell folders, results/runs/<model>/<benchmark>/<method>/<decoding>-<hash>")
    print("\n".join(map(shown, compare(*map(Path, arguments.overrides)))))
    return 0


def list_options(arguments: argparse.Namespace, backend: Backend | None) -> int:
    """Show every option of every group with the first line of its file; `pruners`: which method acts where."""
    configs = Configs.find(arguments.config_dir)
    if arguments.overrides == ["pruners"]:
        from harness.runs.methods import absent, matrix, methods

        rows, reasons = matrix(methods(configs))
        _print(rows)
        print("\n".join(["", *reasons, ""]))
        _print([{"not here": method.name, "why": method.reason} for method in absent()])
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


def _print(rows: Sequence[dict[str, Any]]) -> None:
    """Rows as plain text, one line each whatever the width of the terminal; numbers to the right."""
    lines = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    left = [isinstance(value, str) for value in rows[0].values()]
    for line in lines:
        cells = zip(line, widths, left, strict=True)
        print("  ".join(text.ljust(w) if to_left else text.rjust(w) for text, w, to_left in cells).rstrip())


def _text(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else shown(str(value))
