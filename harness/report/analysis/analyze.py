"""`vtpbench analyze`: tables, figures and findings of all kinds, and the page that sums them up."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

import pandas as pd

from harness.report.analysis.kind import Ask, Finding, Kind
from harness.runs.errors import InputError
from harness.runs.log import write_atomically

KINDS = (
    *("rvis", "heatmaps", "family_gap", "evidence", "selection", "tau_sweep", "losses"),
    *("mass", "never_active", "maps", "fidelity"),
)
"""Names of all analyses, in the order of the page."""
_MODULES = {"maps": "maps_shown", "fidelity": "fidelity_shown"}
OWN_RUNS = Path("results/runs/analysis")
"""Where `run_own` leaves its runs."""


def kind(name: str) -> Kind:
    """The analysis of a name; imported when it is asked for, as some bring engine and models along."""
    found: Kind = getattr(import_module(f"harness.report.analysis.{_MODULES.get(name, name)}"), name.upper())
    return found


def run_own(models: Sequence[str] = ()) -> None:
    """Run what is missing of experiment=analysis, in as many processes as there are cores.

    Raises:
        InputError: one of them fails.
    """
    n = os.cpu_count() or 1
    chosen = [f"model={','.join(models)}"] if models else []
    command = [sys.executable, "-m", "harness", "run", "experiment=analysis", f"paths.results={OWN_RUNS}", *chosen]
    one_core = {**os.environ, "OMP_NUM_THREADS": "1"}
    runs = [subprocess.Popen([*command, f"shard={i}/{n}"], env=one_core) for i in range(n)]
    if any([run.wait() for run in runs]):
        raise InputError("a run of experiment=analysis failed")


def make_folder(out: Path) -> Path:
    """The folder of the figures; raises InputError where it cannot be made."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}") from None
    return out


def analyze(names: Sequence[str], ask: Ask, out: Path) -> Iterator[tuple[str, list[Finding]]]:
    """Measure and draw these kinds into a folder, one after the other: `<name>.csv`, `.png` and `.svg`.

    Raises:
        InputError: the runs that a kind needs are not there.
    """
    from harness.report.analysis.figures import save

    for name in names:
        file = out / f"{name}.csv"
        own = kind(name)
        own.measure(ask).to_csv(file, index=False, float_format="%.6g")
        frame = pd.read_csv(file)
        save(own.draw(frame), out / name)
        yield name, own.findings(frame)
    write_atomically(out / "README.md", page(out))


def page(out: Path) -> str:
    """README.md of a folder of analyses, from its CSV files alone."""
    parts = [HEAD]
    for name in KINDS:
        file = out / f"{name}.csv"
        if file.exists():
            parts.append(_section(kind(name), kind(name).findings(pd.read_csv(file))))
    return "\n".join(parts)


HEAD = """\
# Papers' findings, measured

Made by `vtpbench analyze` from the CSV files in this folder. The committed ones are of the three tiny models, which
read pictures of 64 visual tokens and reply in one of two tasks: a self-test of methods and program, never a statement
about real models. "Holds" and "does not" are said of these models and these tasks alone.
"""


def _section(kind: Kind, findings: list[Finding]) -> str:
    lines = [f"## {kind.name}", "", f"![{kind.name}]({kind.name}.png)", "", kind.shows, ""]
    lines += ["| paper | finding | model | here | numbers |", "|---|---|---|---|---|"]
    said = {True: "holds", False: "does not", None: "-"}
    lines += [f"| {f.paper} | {f.claim} | {f.model} | {said[f.holds]} | {f.numbers} |" for f in findings]
    return "\n".join([*lines, *(["", kind.notes] if kind.notes else []), ""])
