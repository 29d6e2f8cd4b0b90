"""The verb `figure`: accuracy against retention and cost, of stored runs, for papers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli_shared import epilog, listed, results_of
from harness.cli_tables import LEADERBOARD_KEYS
from harness.runs.compose import parse
from harness.runs.errors import InputError
from harness.runs.typed import check_keys

if TYPE_CHECKING:
    from harness.runs.backend import Backend

KEYS = {key: LEADERBOARD_KEYS[key] for key in ("paths.results", "model", "benchmark", "protocol")} | {
    "pruner": "methods to keep, in the same way; the full model is always there",
    "x": "what accuracy is drawn against (ret_prefill,flops,seconds); also ret_nominal, ret_decode, kv",
    "to": "a file that ends in .pdf, .png or .svg (figure.pdf)",
}
EPILOGS = {
    "figure": epilog(KEYS, "figure benchmark=glyph_walk", "figure pruner=fastv,divprune x=ret_decode,flops to=a.svg")
}


def figure(arguments: argparse.Namespace, backend: Backend | None) -> int:
    """Draw accuracy with intervals, a line per method; the full model, and the front of what no other method beats."""
    from harness.report.fronts import DEFAULT, ENDINGS, draw, of_methods, save
    from harness.tables import leaderboard

    keys = parse(arguments.overrides)
    check_keys(keys, KEYS, "")
    to, results = Path(keys.get("to", "figure.pdf")), results_of(keys)
    if to.suffix not in ENDINGS:
        raise InputError(f"to= must end in {', '.join(ENDINGS)}, got {to}")
    models, benchmarks, pruners = (listed(keys, key) for key in ("model", "benchmark", "pruner"))
    frame = leaderboard(results, models=models, benchmarks=benchmarks, protocol=keys.get("protocol")).frame
    made = draw(of_methods(frame, pruners) if pruners else frame, listed(keys, "x") or DEFAULT, results)
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        save(made, to)
    except OSError as error:
        raise InputError(f"cannot write {to}: {error.strerror}") from None
    print(to)
    return 0
