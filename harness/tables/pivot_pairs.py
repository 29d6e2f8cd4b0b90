"""What a pivot table shows of pairs beyond the leaderboard: relative accuracy over benchmarks, ratios of lengths."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from harness.tables import stats
from harness.tables.frames import TablesError
from harness.tables.pivot_text import ROW

RELATIVE = ["relative", "relative_low", "relative_high"]
RATIOS = [
    f"{pairs}_{name}" for pairs in ("finished", "right") for name in ("ratio", "ratio_low", "ratio_high", "pairs")
]


def with_relative(frame: pd.DataFrame, samples: pd.DataFrame) -> pd.DataFrame:
    """With each row's mean over benchmarks of accuracy / full accuracy, and its ends, on all cells of the row.

    Rows that lack a benchmark of their section, or its full model, have none: means over other benchmarks do not
    compare.
    """
    done = _by_cell(frame, samples)
    unpruned = frame[(frame.method == "none") & (frame.addon == "none")]
    full = {title: cell for title, cell in zip(unpruned.title, unpruned.cell, strict=True) if cell in done}
    found = frame.assign(**dict.fromkeys(RELATIVE, math.nan))
    wanted = frame.groupby("section").benchmark.nunique()
    for _, part in frame[frame.method != "none"].groupby(ROW):
        whole = part.cell.isin(done) & part.title.isin(full)
        if len(part) < wanted[part.section.iloc[0]] or not whole.all():
            continue
        names = zip(part.benchmark, part.cell, part.title, strict=True)
        pairs = {str(name): _paired(done[cell], done[full[title]]) for name, cell, title in names}
        if any(both.empty for both in pairs.values()):
            continue
        cells = {
            name: (both.credit.to_numpy(), both.credit_other.to_numpy(), list(both.cluster))
            for name, both in pairs.items()
        }
        try:
            estimate = stats.relative(cells)
        except TablesError:  # the full model is right nowhere
            continue
        found.loc[part.index, RELATIVE] = [estimate.value, estimate.low, estimate.high]
    return found


def with_ratios(frame: pd.DataFrame, samples: pd.DataFrame) -> pd.DataFrame:
    """With the ratio of lengths to the reference cell, its ends and pairs: both finished; both finished and right."""
    done = _by_cell(frame, samples)
    compared = zip(frame.cell, frame.reference, strict=True)
    rows = [_ratios(done[ours], done[theirs]) if {ours, theirs} <= done.keys() else {} for ours, theirs in compared]
    return frame.join(pd.DataFrame(rows, columns=RATIOS, index=frame.index, dtype="float64"))


def _by_cell(frame: pd.DataFrame, samples: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Samples that did not fail, of cells that are wholly judged."""
    judged = set(frame.cell[frame.unjudged == 0])
    good = samples[~samples.failed & samples.cell.isin(judged)]
    return {str(cell): part for cell, part in good.groupby("cell", observed=True)}


def _paired(ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    keys, values = ["id", "repeat"], ["credit", "trace_length", "truncated"]
    return ours[[*keys, "cluster", *values]].merge(theirs[[*keys, *values]], on=keys, suffixes=("", "_other"))


def _ratios(ours: pd.DataFrame, theirs: pd.DataFrame) -> dict[str, Any]:
    both = _paired(ours, theirs)
    finished = both[(both.truncated == 0) & (both.truncated_other == 0)]
    finished = finished[(finished.trace_length > 0) & (finished.trace_length_other > 0)]
    right = finished[(finished.credit == 1) & (finished.credit_other == 1)]
    out: dict[str, Any] = {}
    for name, part in (("finished", finished), ("right", right)):
        out[f"{name}_pairs"] = len(part)
        if len(part):
            lengths = (part.trace_length.to_numpy(), part.trace_length_other.to_numpy())
            ratio = stats.log_ratio(*lengths, list(part.cluster))
            ends = {"ratio": ratio.value, "ratio_low": ratio.low, "ratio_high": ratio.high}
            out |= {f"{name}_{key}": value for key, value in ends.items()}
    return out
