"""The verb `report`: the runs of a results folder as one HTML file, or one sample with several methods."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli_shared import RESULTS, epilog, listed, results_of, whole, write
from harness.cli_tables import LEADERBOARD_KEYS
from harness.runs.compose import split
from harness.runs.errors import InputError
from harness.runs.typed import check_keys, convert

if TYPE_CHECKING:
    from harness.runs.backend import Backend

SHARED = RESULTS | {key: LEADERBOARD_KEYS[key] for key in ("model", "benchmark", "protocol")}
KEYS = SHARED | {key: LEADERBOARD_KEYS[key] for key in ("against", "margin")} | {
    "samples": "sample pages of each section, those where methods disagree first (40)",
    "to": "the file (report.html in the results folder)",
}  # fmt: skip
COMPARE_KEYS = SHARED | {
    "method": "methods to keep: names or globs, with commas, as in fastv,fastv+dstp,visionpulse*",
    "to": "the file (compare.html in the results folder)",
}
EPILOGS = {
    "report": epilog(
        KEYS | {"method": "of compare: names or globs of methods, with commas"},
        "report model=qwen3_vl_4b to=qwen.html",
        "report compare 00188 benchmark=glyph_walk method=none,fastv,fastv+dstp",
    )
}


def report(arguments: argparse.Namespace, backend: Backend | None) -> int:
    """Write a report, or with `compare SAMPLE_ID` the traces of one sample side by side."""
    from harness.report.page import Chosen, compare
    from harness.report.page import report as report_of

    sample, rest = _sample(arguments.overrides)
    names, keys = split(rest)
    if names:
        raise InputError(f"report takes key=value, or compare and the id of one sample; got {names[0]!r}")
    check_keys(keys, KEYS if sample is None else COMPARE_KEYS, "")
    results = results_of(keys)
    to = Path(keys.get("to", results / ("report.html" if sample is None else "compare.html")))
    chosen = Chosen(
        results=results, models=listed(keys, "model"), benchmarks=listed(keys, "benchmark"),
        protocol=keys.get("protocol"), against=keys.get("against", "full"),
        margin=convert(keys.get("margin", 1.0), float, "margin"),
    )  # fmt: skip
    limit = whole(keys.get("samples", "40"), "samples")
    if limit < 0:
        raise InputError(f"samples must be at least 0, got {limit}")
    command = " ".join(["vtpbench report", *arguments.overrides])
    if sample is None:
        page = report_of(chosen, limit, command)
    else:
        page = compare(chosen, sample, listed(keys, "method"), command)
    write(to, page.html)
    left = f" ({page.left_out} left out: samples=)" if page.left_out else ""
    print(f"{to}: {len(page.html) / 1e6:.1f} MB, {page.cells} cells, {page.samples} samples{left}")
    return 0


def _sample(asked: list[str]) -> tuple[str | None, list[str]]:
    """The id behind `compare`, whatever signs it has, and the other arguments."""
    if "compare" not in asked:
        return None, asked
    at = asked.index("compare")
    if len(asked) == at + 1:
        raise InputError("report compare needs the id of a sample")
    return asked[at + 1], asked[:at] + asked[at + 2 :]
