"""The sentences below a pivot table: what it shows, how it was compared, and what its signs mean."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from harness.tables import caption
from harness.tables.bands import BUDGETS, TOLERANCE
from harness.tables.columns import Row, budget
from harness.tables.pareto import CEILINGS, COSTS
from harness.tables.pivot_text import Asked, metric_of, si


def notes(frame: pd.DataFrame, asked: Asked) -> tuple[str, ...]:
    """Caption of a pivot table; sentences that do not apply are left out."""
    metric = metric_of(asked.metric)
    out = [f"{caption.count(len(frame), 'cell')}. {asked.metric}: {metric.meaning}."]
    if metric.tested:
        out += _tests(frame, asked)
    if asked.metric == "trace_length":
        out += [
            "In brackets: share of replies cut off at the token limit; × ratio of lengths to "
            f"{_target(asked)} with its 95 % interval, geometric mean over pairs that both finished; right: of those, "
            "over pairs that are both right."
        ]
    if asked.relative and frame.relative.notna().any():
        out += [
            "relative: mean over the columns of accuracy / accuracy of the full model on the same samples, 95 % "
            "interval by joint cluster bootstrap; rows that miss a column have none."
        ]
    out += [_protocols(frame)]
    if asked.banded:
        out += [_bands(frame, asked)]
    if asked.metric == "accuracy":
        out += _fronts(frame)
    out += [*(caption.scoring(frame) if metric.judged else []), *caption.versions(frame)]
    if frame.failed.sum():
        out += [f"{caption.count(int(frame.failed.sum()), 'sample')} failed and count nowhere."]
    if frame.method.isin(caption.DIAGNOSTIC).any():
        out += ["†: diagnostic, a floor or a ceiling and not a method to use."]
    if frame.benchmark.str.startswith("glyph_").any():
        out += [
            "Self-test (glyph_*): made pictures, tiny models; says that the harness works, not which method is best."
        ]
    return (*out, "-: not defined, not run, or nothing finished.")


def _target(asked: Asked) -> str:
    fixed = {"full": "the full model", "base": "the method without its add-on"}
    return fixed.get(asked.against, f"{asked.against}, same budget")


def _tests(frame: pd.DataFrame, asked: Asked) -> list[str]:
    compared = frame[frame.p.notna()]
    if compared.empty:
        return []
    cells = caption.count(len(compared), "compared cell")
    out = [
        f"In brackets: paired difference to {_target(asked)} in points and its 95 % interval by paired cluster "
        f"bootstrap. p: {caption.join(frame.test)}, Holm-adjusted over {cells}.",
        f"At the 5 % level: = equivalent, shown to be within ±{caption.count(asked.margin, 'point')} (TOST, likewise "
        "adjusted); ↓ worse or ↑ better, p < 0.05 and not equivalent; ? inconclusive, neither shown.",
        *caption.power(frame, asked.margin),
        *caption.noise(frame),
    ]
    if (compared.pairs < compared.n).any():
        out += ["(n): pairs, where fewer than N samples were common to both cells."]
    return out


def _protocols(frame: pd.DataFrame) -> str:
    used = {str(name): ", ".join(sorted(set(part.benchmark))) for name, part in frame.groupby("protocol")}
    if len(used) == 1:
        return f"Protocol: {next(iter(used))}."
    return f"Protocols: {'; '.join(f'{name} for {benchmarks}' for name, benchmarks in used.items())}."


def _bands(frame: pd.DataFrame, asked: Asked) -> str:
    ranges = []
    for band, part in frame[~frame.band.isin(["full", "-"])].groupby(frame.band, sort=False):
        low, high = part.budget.min(), part.budget.max()
        letter, unit = si("FLOPs" if asked.budget == "flops" else "", high)
        ends = dict.fromkeys(f"{end / unit:.3g}" for end in (low, high))
        ranges += [f"{band}: {' to '.join(ends)}{f' {letter}FLOPs' if asked.budget == 'flops' else ''}"]
    out = (
        f"Bands of equal {asked.budget} ({BUDGETS[asked.budget]}; mean over the columns): at most "
        f"{100 * TOLERANCE:g} % below the largest of the band. Compare methods inside a band only."
    )
    return f"{out} {'; '.join(ranges)}." if ranges and frame.section.nunique() == 1 else out  # each section has its own


def _fronts(frame: pd.DataFrame) -> list[str]:
    """What the fronts mean, and who stands on them."""
    several = frame.groupby("title").machine.nunique() > 1
    both = frame.title[frame.machine.str.contains(" and ", regex=False, na=False)]
    mixed = sorted({*several.index[several], *both})
    out = [
        "front: of all budgets, no cell is as accurate and as cheap and better in one of the two; T: executed FLOPs, "
        "s: seconds, with the number of columns. Point estimates; intervals may overlap."
    ]
    if frame.method.isin(CEILINGS).any():
        out += [f"{' and '.join(sorted(CEILINGS & set(frame.method)))}: on no front, not to be reached by a method."]
    where = [axis for axis in ("model", "benchmark", "protocol", "decoding") if frame[axis].nunique() > 1]
    for cost, sign in COSTS.items():
        found = [
            f"{_place(part, where)}{_names(part, cost)}" for _, part in frame[frame[f"front_{cost}"]].groupby("title")
        ]
        out += [f"Front {sign}, from cheap to dear: {'; '.join(found)}."] if found else []
    for title in mixed:
        part = frame[frame.title == title]
        seen = ", ".join(sorted(set(part.machine.dropna())))
        out += [f"No front s, {_place(part, where)}seconds were taken on several machines, {seen}."]
    if frame.machine.isna().any():
        out += [f"Machine not recorded for {caption.count(int(frame.machine.isna().sum()), 'cell')}: mind the seconds."]
    return out


def _place(cells: pd.DataFrame, where: Sequence[str]) -> str:
    return " ".join(str(cells.iloc[0][axis]) for axis in where) + ": " if where else ""


def _names(cells: pd.DataFrame, cost: str) -> str:
    rows: list[Row] = cells.sort_values([cost, "label"]).to_dict("records")  # type: ignore[assignment]
    return ", ".join(row["label"] if row["method"] == "none" else f"{row['label']} {budget(row)}" for row in rows)
