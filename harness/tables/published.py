"""Numbers printed by papers (results/published): frames, names, and ranges of what several papers print.

    published = Published.read()
    rows = published.select(method="FastV", model="LLaVA-1.5-7B", benchmark="GQA")
    for _, same in rows.groupby("setting"):
        print(spread(same))    # 49.6 - 55.3 (median 53.55, 5 papers, 3 copies)

The README beside the tables explains every column. What cannot be found raises `TablesError` with one line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from statistics import median
from typing import Any, Literal

import pandas as pd

from harness.tables.frames import TablesError
from harness.tables.published_files import TABLES, numeric, read_table, shipped

COUNTED = ("measured", "rerun", "unknown")
"""Provenances whose values make a range; a copied value counts through its origin only."""
KEY = (
    *("model_id", "method_id", "addon_id", "variant", "budget_kind", "budget_value", "budget_base_tokens"),
    *("benchmark_id", "version", "split", "metric_id", "convention"),
)
"""What two printed scores must share to be of one setting (the key of conflicts.csv)."""
Kind = Literal["method", "model", "benchmark"]

_COST = ("workload", "hardware", "batch")


@dataclass(frozen=True)
class Spread:
    """What papers print for one setting.

    Attributes:
        values: distinct values of papers that did not copy them, ascending.
        papers: who prints each value; an origin that is not in the tables stands as "paper (as copied)".
        median: of the distinct values, so that a number which many papers repeat weighs no more than another.
        copies: papers that only repeat a value.
        suspect: a row of the setting is marked so.
    """

    values: tuple[float, ...]
    papers: Mapping[float, tuple[str, ...]]
    median: float
    copies: tuple[str, ...]
    suspect: bool

    @property
    def min(self) -> float:
        return self.values[0]

    @property
    def max(self) -> float:
        return self.values[-1]

    @property
    def n_papers(self) -> int:
        """Papers behind the values; one that prints two values counts once."""
        return len({paper for papers in self.papers.values() for paper in papers})

    @property
    def listed(self) -> str:
        """Every value with its papers: "46.1: btp, dart; 48: eadp"."""
        return "; ".join(f"{value:.10g}: {', '.join(self.papers[value])}" for value in self.values)

    @property
    def text(self) -> str:
        """For example "46.1 - 48.0 (median 46.4, 5 papers, 3 copies)"."""
        low, middle, high = numbers(self.min, self.median, self.max)
        counts = [_plural(self.n_papers, "paper", "papers")]
        counts += [_plural(len(self.copies), "copy", "copies")] if self.copies else []
        if len(self.values) == 1:
            return f"{low} ({', '.join(counts)})"
        return f"{low} - {high} ({', '.join([f'median {middle}', *counts])})"

    def __str__(self) -> str:
        return self.text + (" suspect" if self.suspect else "")


@dataclass(frozen=True)
class Published:
    """The tables of a folder, a frame each; what is a number is a float (NaN if empty), the rest text ("" if empty).

    `rows` holds results, ablations, aggregates and efficiency under one another, with the columns `table` (which of
    them) and `setting` (equal for rows that print the same thing).
    """

    results: pd.DataFrame
    ablations: pd.DataFrame
    aggregates: pd.DataFrame
    efficiency: pd.DataFrame
    papers: pd.DataFrame
    models: pd.DataFrame
    methods: pd.DataFrame
    method_aliases: pd.DataFrame
    benchmarks: pd.DataFrame
    metrics: pd.DataFrame
    protocols: pd.DataFrame
    conflicts: pd.DataFrame
    granularity: pd.DataFrame
    rows: pd.DataFrame

    @classmethod
    def read(cls, folder: Path | None = None) -> Published:
        """Read a folder; default is the shipped one (harness/published in a wheel, results/published in a checkout).

        Raises:
            TablesError: a table is missing or damaged.
        """
        folder = folder or shipped()
        names = [field.name for field in fields(cls) if field.name != "rows"]
        text = {name: read_table(folder, name) for name in names}
        splits = text["benchmarks"].groupby("benchmark_id").split.nunique()
        single = set(splits.index[splits == 1])
        parts = [text[name].assign(table=name, setting=_settings(text[name], name, single)) for name in TABLES]
        rows = numeric(pd.concat(parts, ignore_index=True).fillna(""), folder)
        tables = {name: rows[rows.table == name][[*text[name], "setting"]].reset_index(drop=True) for name in TABLES}
        return cls(**{name: numeric(text[name], folder) for name in names if name not in TABLES}, **tables, rows=rows)

    def row(self, row_id: str) -> pd.Series[Any]:
        """The row of `rows` with this id, such as "p0354"."""
        found = self.rows[self.rows.row_id == row_id]
        if found.empty:
            raise TablesError(f"no published row {row_id!r}; ids are p0001 to {self.rows.row_id.max()}")
        return found.iloc[0]

    def same_setting(self, row: pd.Series[Any]) -> pd.DataFrame:
        """Every row, of all papers, that prints the same thing as a row of `rows` or of one of the four tables."""
        found: pd.DataFrame = self.rows[self.rows.setting == row["setting"]]
        return found

    def select(
        self, *, method: str | None = None, model: str | None = None, benchmark: str | None = None
    ) -> pd.DataFrame:
        """Rows of a method (with all add-ons and variants unless the name fixes them), a model, a benchmark."""
        wanted = self.resolve(method, "method") if method is not None else {}
        wanted |= self.resolve(model, "model") if model is not None else {}
        wanted |= self.resolve(benchmark, "benchmark") if benchmark is not None else {}
        rows: pd.DataFrame = self.rows
        for column, value in wanted.items():
            rows = rows if value == "" else rows.loc[rows[column] == value]
        return rows

    def resolve(self, name: str, kind: Kind) -> dict[str, str]:
        """Ids of a printed name, whatever its case and punctuation, by column.

        A method has three: "FastV+DSTP" is {"method_id": "fastv", "addon_id": "dstp", "variant": ""}; the name of an
        add-on alone leaves method_id empty.

        Raises:
            TablesError: no such name; the message lists near ones.
        """
        names = self.names(kind)
        if plain(name) in names:
            return names[plain(name)]
        if kind == "method" and "+" in name.strip("+"):  # an add-on on a base that no paper prints so
            base, _, addon = name.strip().rpartition("+")
            parts = [names.get(plain(part), {}) for part in (base, addon)]
            if parts[0].get("method_id") and parts[1].get("addon_id"):
                return parts[0] | {"addon_id": parts[1]["addon_id"]}
        near = dict.fromkeys("+".join(filter(None, names[n].values())) for n in get_close_matches(plain(name), names))
        raise TablesError(f"no published {kind} is called {name!r}; near: {', '.join(near) or 'none'}")

    def names(self, kind: Kind) -> dict[str, dict[str, str]]:
        """Ids by every known name (as `plain` writes it): ids first, then names, aliases and printed names."""
        found: dict[str, dict[str, str]] = {}
        if kind == "method":
            for row in self.methods.to_dict("records"):
                ids = {"method_id": row["method_id"], "addon_id": "", "variant": ""}
                ids |= {"method_id": "", "addon_id": row["method_id"]} if row["kind"] == "addon" else {}
                found |= {plain(row["method_id"]): ids, plain(row["name"]): ids}
            for row in self.method_aliases.to_dict("records"):
                found.setdefault(plain(row["alias"]), {key: row[key] for key in ("method_id", "addon_id", "variant")})
            return found
        for row in (self.models if kind == "model" else self.benchmarks).to_dict("records"):
            ids = {f"{kind}_id": row[f"{kind}_id"]}
            for name in (row[f"{kind}_id"], row["name"], row.get("hub_id", ""), *row["printed_names"].split("|")):
                found.setdefault(plain(name), ids)
        found.pop("", None)
        return found


def spread(rows: pd.DataFrame) -> Spread | None:
    """The range over rows that print one setting (all of them: a copy is told by its origin); None if none counts.

    Distinct values of provenance measured, rerun or unknown make it. A copied value counts only if no row of its
    origin is there, and then as the origin's. Quarantined rows are left out.

    Args:
        rows: of one setting, with the columns of the tables; value as a number.
    """
    return spread_of(rows[["paper_id", "value", "provenance", "copied_from", "status"]].to_dict("records"))


def spread_of(rows: Iterable[Mapping[Any, Any]]) -> Spread | None:
    """`spread` of rows as dictionaries: many settings in little time."""
    rows = [row for row in rows if row["status"] != "quarantined"]
    there, copies, counted = {row["paper_id"] for row in rows}, set(), set()
    papers: dict[float, set[str]] = {}
    for row in rows:
        paper, value, origin = row["paper_id"], float(row["value"]), row["copied_from"]
        if row["provenance"] in COUNTED:
            counted.add(paper)
            papers.setdefault(value, set()).add(paper)
            continue
        copies.add(paper)
        if origin not in there:
            papers.setdefault(value, set()).add(f"{origin} (as copied)")
    if not papers:
        return None
    values = tuple(sorted(papers))
    return Spread(
        values=values,
        papers={value: tuple(sorted(papers[value])) for value in values},
        median=median(values),
        copies=tuple(sorted(copies - counted)),
        suspect=any(row["status"] == "suspect" for row in rows),
    )


def plain(name: str) -> str:
    """A name without case and punctuation; the plus signs of PruMerge+ and FastV+DSTP stay."""
    return re.sub(r"[^a-z0-9+]", "", name.lower())


def numbers(*values: float) -> list[str]:
    """Numbers with as many decimals as the one that needs most, float noise aside."""
    decimals = max(len(f"{round(v, 6):.10g}".partition(".")[2]) for v in values)
    return [f"{v:.{decimals}f}" for v in values]


def _plural(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"


def _settings(frame: pd.DataFrame, table: str, single: set[str]) -> pd.Series[str]:
    """A key per row, equal where two papers print the same thing.

    Scores: the key of conflicts.csv. MMBench's dev versions are one there, since hardly a paper says which it used, and
    a split that is the only one of its benchmark (`single`) says nothing. Averages: their members and rule too. Costs:
    hardware, batch, workload and convention too; without a named convention a cost is its own paper's alone.
    """
    known = frame.reindex(columns=[*KEY, "aggregate_id", "rule", "reference", *_COST], fill_value="")
    known["convention"] = known.convention if table == "efficiency" else _convention(frame)
    known.loc[known.benchmark_id == "mmbench_en", ["version", "split"]] = ""
    known.loc[known.benchmark_id.isin(single), "split"] = ""
    if table == "aggregates":
        known["members"] = frame.members.map(lambda names: "|".join(sorted(names.split("|"))))
    tells = {"efficiency": known.convention, "aggregates": frame.get("members")}.get(table)
    known["paper_id"] = "" if tells is None else frame.paper_id.where(tells == "", "")
    return pd.Series(["\t".join([table, *row]) for row in known.to_numpy()], index=frame.index)


def _convention(frame: pd.DataFrame) -> pd.Series[str]:
    """TextVQA with or without OCR tokens in the prompt, stated or inferred; "" elsewhere."""
    flags = frame.get("convention_flags", pd.Series("", index=frame.index))
    return flags.str.extract(r"(textvqa_\w+)")[0].fillna("")
