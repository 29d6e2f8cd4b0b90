"""Cells compared: intervals, the paired difference of each cell to another, and what may be claimed of all together."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from threadpoolctl import threadpool_limits

from harness.runs.summary import Record
from harness.tables import stats
from harness.tables.columns import Row
from harness.tables.frames import TablesError

_INTERVALS = ["accuracy_low", "accuracy_high", "rule", "metric_value_low", "metric_value_high"]
_COMPARED = ["reference", "pairs", "difference", "difference_low", "difference_high", "p", "p_margin", "test"]
_POWER = ["discordant", "design"]


@dataclass(frozen=True)
class _Cell:
    """The finished samples of a cell: item, repeat, credit and cluster; and the lines that its headline is made of."""

    samples: pd.DataFrame
    lines: pd.Series

    @property
    def runs(self) -> pd.DataFrame:
        """Credits [samples, repeats] of the samples that have all repeats."""
        return self.samples.pivot(index="item", columns="repeat", values="credit").dropna()

    @property
    def records(self) -> list[Record]:
        return [json.loads(line) for line in self.lines]


def compare(
    cells: pd.DataFrame, samples: pd.DataFrame, *, against: str, margin: float, headline: bool = False
) -> pd.DataFrame:
    """Cells with their statistics.

    Args:
        cells, samples: of `harness.tables.load`.
        against: "full", "base" or the name of a method, as for `leaderboard`.
        margin: of equivalence, as a share (0.01: one point).
        headline: compare the benchmark's headline metric (F1, say) where that is not the accuracy.

    Returns:
        The cells with accuracy_low and accuracy_high, their rule, metric_value_low and metric_value_high (of the
        headline); reference (the cell compared with), pairs, difference with its ends, test, p, p_margin and the two
        adjusted for all cells (p_holm, p_margin_holm), verdict; and needed, the samples that would show the margin
        (`stats.power`, at the discordance seen, with the clusters' design effect and the first step of Holm).
    """
    done = _done(samples[~samples.failed & samples.cell.isin(cells.cell[cells.unjudged == 0])])
    rows: list[Row] = cells.to_dict("records")  # type: ignore[assignment]
    with threadpool_limits(1):  # the products of resamples are thin: threads wait longer than they work
        found = [
            _intervals(row, done) | _comparison(row, reference, done, margin, headline)
            for row, reference in zip(rows, _references(rows, against), strict=True)
        ]
    frame = pd.DataFrame(found, columns=[*_INTERVALS, *_COMPARED, *_POWER], index=cells.index)
    return _judged(cells.join(frame), margin).drop(columns=_POWER)


def _done(samples: pd.DataFrame) -> dict[str, _Cell]:
    """By cell. Items and clusters become numbers, which are sooner found than texts."""
    columns = samples[["repeat", "credit", "line"]]
    numbers = columns.assign(item=pd.factorize(samples.id)[0], cluster=pd.factorize(samples.cluster)[0])
    parts = numbers.groupby(samples.cell.to_numpy(), observed=True)
    return {str(cell): _Cell(part.drop(columns="line"), part.line) for cell, part in parts}


def _references(rows: Sequence[Row], against: str) -> list[str | None]:
    """The cell that each row is compared with; of several (run with other software, say) the one with most samples."""
    alone: dict[str, list[Row]] = defaultdict(list)
    settings = [json.dumps(row["setting"], sort_keys=True, default=str) for row in rows]
    for row, setting in zip(rows, settings, strict=True):
        if row["addon"] == "none":
            alone[setting].append(row)

    def wanted(row: Row, other: Row) -> bool:
        if against == "full":
            return bool(other["method"] == "none")
        if against == "base":
            return bool(other["params"] == row["params"].get("base"))
        same = all((pd.isna(other[k]) and pd.isna(row[k])) or other[k] == row[k] for k in ("keep", "tokens"))
        return bool(other["method"] == against) and same

    def best(row: Row, others: Sequence[Row]) -> str | None:
        if row["addon"] == "none" and row["method"] == {"full": "none"}.get(against, against):
            return None
        fitting = [other for other in others if other["cell"] != row["cell"] and wanted(row, other)]
        return str(max(fitting, key=lambda other: int(other["n"]))["cell"]) if fitting else None

    return [best(row, alone[setting]) for row, setting in zip(rows, settings, strict=True)]


def _intervals(row: Row, done: dict[str, _Cell]) -> Row:
    if row["cell"] not in done:
        return {}
    cell = done[row["cell"]]
    found = stats.accuracy(cell.samples.credit.to_numpy(), cell.samples.cluster.to_numpy())
    out = {"accuracy_low": found.low, "accuracy_high": found.high, "rule": found.rule}
    if row["metric"] == "mean":
        return out | {"metric_value_low": found.low, "metric_value_high": found.high}
    try:
        special = stats.metric(cell.records, row["metric"])
    except TablesError:  # nothing that it could be computed from
        return out
    return out | {"metric_value_low": special.low, "metric_value_high": special.high}


def _comparison(row: Row, reference: str | None, done: dict[str, _Cell], margin: float, headline: bool) -> Row:
    """Of a row with its reference; what cannot be said stays out."""
    if row["cell"] not in done or reference not in done:
        return {}
    ours, other = done[row["cell"]], done[reference]
    special = row["metric"] if headline and row["metric"] != "mean" else None
    return {"reference": reference} | _difference(ours, other, special, margin)


def _difference(ours: _Cell, other: _Cell, special: str | None, margin: float) -> Row:
    if special is not None:
        try:
            return _plain(stats.metric_paired(ours.records, other.records, special, margin))
        except TablesError:
            return {}
    if ours.samples["repeat"].any() or other.samples["repeat"].any():
        return _repeated(ours, other, margin)
    theirs = other.samples.set_index("item").credit
    at = theirs.index.get_indexer(pd.Index(ours.samples.item))
    both = ours.samples[at >= 0]
    if both.empty:
        return {}
    credit, cluster = both.credit.to_numpy(), both.cluster.to_numpy()
    credit_other = theirs.to_numpy()[at[at >= 0]]
    found = stats.paired(credit, credit_other, cluster, margin)
    return _plain(found) | _discordance(credit - credit_other, cluster)


def _repeated(ours: _Cell, other: _Cell, margin: float) -> Row:
    """Samples and runs are drawn; samples that lack a repeat are left out."""
    mine, theirs = ours.runs, other.runs
    common = mine.index.intersection(theirs.index)
    if common.empty:
        return {}
    credit, credit_other = mine.loc[common].to_numpy(), theirs.loc[common].to_numpy()
    cluster = ours.samples.drop_duplicates("item").set_index("item").cluster[common].to_numpy()
    found = stats.repeated(credit, credit_other, cluster, margin)
    plain = _plain(found) | {"pairs": credit.size}  # replies, as N counts them
    return plain | _discordance(credit.mean(1) - credit_other.mean(1), cluster)


def _discordance(delta: stats.Array, cluster: stats.Clusters) -> dict[str, float]:
    return {"discordant": float((delta**2).mean()), "design": stats.design_effect(delta, cluster)}


def _plain(d: stats.Difference) -> Row:
    values = [d.pairs, d.value, d.low, d.high, d.p, d.p_margin, d.rule]
    return dict(zip(_COMPARED[1:], values, strict=True))


def _judged(frame: pd.DataFrame, margin: float) -> pd.DataFrame:
    """With Holm's adjustment over all compared cells, verdicts, and the samples that the margin needs."""
    compared = frame.index[frame.p.notna()]
    adjusted = {key: stats.holm(list(frame.loc[compared, key])) for key in ("p", "p_margin")}
    for key, values in adjusted.items():
        frame[f"{key}_holm"] = pd.Series(values, index=compared, dtype="float64")
    said = [stats.verdict(*v) for v in zip(frame.difference[compared], *adjusted.values(), strict=True)]
    frame["verdict"] = pd.Series(said, index=compared, dtype=object)
    seen = zip(frame.discordant, frame.design, strict=True)
    frame["needed"] = [_needed(share, design, margin, len(compared)) for share, design in seen]
    return frame


def _needed(discordant: float, design: float, margin: float, tests: int) -> float:
    if not margin <= discordant or not design:  # cells that differ on fewer samples cannot differ by the margin
        return math.nan
    return stats.power(discordant, margin, tests=tests, design=design)
