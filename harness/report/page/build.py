"""A report, or the comparison of one sample, from a results folder to its file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pandas as pd

from harness.report.page import board, figures
from harness.report.page.html import render
from harness.report.page.plain import Json, Pool, records
from harness.report.page.questions import Questions
from harness.report.page.recorded import Recorded
from harness.report.page.replies import Gallery, ranked
from harness.runs.errors import InputError
from harness.tables import caption
from harness.tables.columns import Row
from harness.tables.frames import runs_folder
from harness.tables.leaderboard import compared

ROOM = 4_000_000
"""Characters that samples and their pictures may take of a report, all sections together."""

REPORT = ("common.js", "table.js", "figures.js", "plots.js", "picture.js", "sample.js", "gallery.js")
COMPARE = ("common.js", "picture.js", "sample.js", "compare.js")


@dataclass(frozen=True)
class Written:
    """A page, and what it shows."""

    html: str
    cells: int
    samples: int
    left_out: int


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The runs that a page is about; see `harness.tables.leaderboard`."""

    results: Path
    models: Sequence[str] = ()
    benchmarks: Sequence[str] = ()
    protocol: str | None = None
    margin: float = 1.0
    against: str = "full"

    def read(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The frame of the leaderboard, and its samples. Raises InputError."""
        frame, samples = compared(
            self.results, self.models, self.benchmarks, margin=self.margin, against=self.against,
            protocol=self.protocol,
        )  # fmt: skip
        return frame, samples[samples.cell.isin(frame.cell)]


def report(chosen: Chosen, limit: int, command: str) -> Written:
    """The report of all chosen runs, with at most `limit` samples of each section. Raises InputError."""
    frame, samples = chosen.read()
    rows = records(frame)
    runs, sections = runs_folder(chosen.results), board.sections(rows)
    recorded = Recorded.read(runs, rows)
    pool, gallery, known = (Pool(), Pool()), list[Json](), dict[str, Questions]()
    for section in sections:
        own = [row for row in rows if row["title"] == section["title"]]
        cells = [row["cell"] for row in own]
        flags = ranked(own, samples[samples.cell.isin(cells)], set().union(*(recorded.ids[cell] for cell in cells)))
        found = Gallery(runs, section["title"], own, Questions.of(runs / cells[0], known), pool)
        gallery.append(found.section(flags, limit, ROOM / len(sections)))
    shown, left = sum(len(s["samples"]) for s in gallery), sum(s["leftOut"] for s in gallery)
    points, boxes = figures.costs(frame, chosen.results), figures.lengths(frame, samples)
    shifts = figures.shifts(recorded.curves)
    data = {
        "board": sections, "choices": board.choices(sections),
        "figures": [{"title": s["title"], "costs": points.get(s["title"], []), "lengths": boxes.get(s["title"], []),
                     "shifts": shifts.get(s["title"])} for s in sections],
        "gallery": gallery, "pictures": pool[0].values, "layouts": pool[1].values,
    }  # fmt: skip
    facts = [(len(rows), "cell"), (frame.model.nunique(), "model"), (frame.benchmark.nunique(), "benchmark")]
    html = render(
        "report.html.j2", REPORT, data, plots=True,
        facts=", ".join(caption.count(n, noun) for n, noun in facts), left=left, shown=shown, command=command,
        notes=caption.notes(frame, chosen.margin, chosen.against), self_test=any(s["selfTest"] for s in sections),
        real=any(not s["selfTest"] for s in sections),
    )  # fmt: skip
    return Written(html, len(rows), shown, left)


def compare(chosen: Chosen, sample: str, methods: Sequence[str], command: str) -> Written:
    """What several methods saw and wrote of one sample, side by side. Raises InputError."""
    frame, samples = chosen.read()
    there = frame[frame.cell.isin(samples.cell[samples.id == sample])]
    if there.empty:
        raise InputError(f"no run has a sample {sample!r}; such ids are: {', '.join(sorted(set(samples.id))[:3])}")
    if len(titles := sorted(set(there.title))) > 1:
        raise InputError(
            f"sample {sample!r} is in {len(titles)} sections: {'; '.join(titles)}: "
            "choose one with benchmark=, model= or protocol="
        )
    rows = [row for row in records(there) if not methods or any(_fits(row, name) for name in methods)]
    if not rows:
        known = ", ".join(dict.fromkeys(map(board.full_name, records(there))))
        raise InputError(f"no method {', '.join(methods)} has sample {sample!r}; there are: {known}")
    runs, pool = runs_folder(chosen.results), (Pool(), Pool())
    flags = ranked(rows, samples[(samples.id == sample) & samples.cell.isin(there.cell)], ())
    found = Gallery(runs, titles[0], rows, Questions.of(runs / rows[0]["cell"], {}), pool)
    data = {"gallery": [found.section(flags, 1, ROOM)], "pictures": pool[0].values, "layouts": pool[1].values}
    html = render("compare.html.j2", COMPARE, data, sample=sample, title=titles[0],
                  command=command)  # fmt: skip
    return Written(html, len(rows), 1, 0)


def _fits(row: Row, name: str) -> bool:
    """Whether a name or glob is that of a method, alone or with its budget as folders have it."""
    return any(fnmatchcase(known, name) for known in (board.full_name(row), row["cell"].split("/")[2]))
