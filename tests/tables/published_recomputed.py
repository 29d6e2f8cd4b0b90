"""Checks of published numbers that compute something anew: digits, throughput, averages, conflicts.

They read and report as those of `published_checks` do.
"""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from statistics import mean

import pandas as pd
from scipy.stats import binomtest

from harness.tables.published import KEY, Published, spread
from tests.tables.published_checks import SETTING, Check, Frames, Row, listed, load, rows


def on_grid(text: str, n: int, steps: int) -> bool:
    """Whether some k of n * steps gives the printed percentage, halves rounded either way."""
    value, half = Decimal(text), Decimal(5).scaleb(Decimal(text).as_tuple().exponent - 1)  # type: ignore[operator]
    k = round(value * n * steps / 100)
    return any(abs(Decimal(100 * j) / (n * steps) - value) <= half for j in (k - 1, k, k + 1))


def check_granularity(folder: Path) -> list[str]:
    """Counts, chance and p-value of every test of granularity.csv, over values printed with two decimals.

    An N of this table is "supported" just where scores of the paper carry it as inferred.
    """
    frames = load(folder)
    cells = pd.concat([frames["results"], frames["ablations"]])
    cells = cells[(cells.status != "quarantined") & ~cells.metric_id.isin(["success_rate"])]
    out = []
    for row in frames["granularity"].to_dict("records"):
        same = cells[(cells.paper_id == row["paper_id"]) & (cells.benchmark_id == row["benchmark_id"])]
        texts = sorted({text for text in same.value_printed if text[-3:-2] == "."}, key=Decimal)
        n, steps = int(row["n_items"]), int(row["steps_per_item"])
        off = [text for text in texts if not on_grid(text, n, steps)]
        fit = len(texts) - len(off)
        chance = min(1.0, n * steps / 10_000)  # two decimals are printed: 10,000 values are possible
        p = binomtest(fit, len(texts), chance, alternative="greater").pvalue
        mine = [str(len(texts)), str(fit), f"{chance:.10g}", f"{p:.1e}"]
        theirs = [
            row["distinct_values"],
            row["on_grid"],
            f"{float(row['chance']):.10g}",
            f"{float(row['p_value']):.1e}",
        ]
        where = f"granularity {row['paper_id']} {row['benchmark_id']} {n}"
        out += [f"{where}: {theirs}, recomputed {mine}"] * (mine != theirs)
        out += [f"{where}: off the grid {off}"] * (
            bool(row["off_grid_values"]) and row["off_grid_values"].split() != off
        )
    tests = [row for row in frames["granularity"].to_dict("records") if row["verdict"] == "supported"]
    supported = {(row["paper_id"], row["benchmark_id"], row["n_items"]) for row in tests}
    inferred = cells[cells.n_source == "inferred"]
    used = set(zip(inferred.paper_id, inferred.benchmark_id, inferred.n_items, strict=True))
    return out + [f"granularity {' '.join(key)}: supported or used, not both" for key in sorted(supported ^ used)]


def check_off_grid(folder: Path) -> list[str]:
    """Cells that no whole count of their n_items gives carry the flag, and only they."""
    frames = load(folder)
    steps = {row["benchmark_id"]: int(row["steps_per_item"] or 1) for row in frames["benchmarks"].to_dict("records")}
    scored = [row for _, row in rows(frames, ("results", "ablations")) if row["n_items"]]
    bad = {r["row_id"] for r in scored if not on_grid(r["value_printed"], int(r["n_items"]), steps[r["benchmark_id"]])}
    flagged = {
        row["row_id"] for _, row in rows(frames, ("results", "ablations")) if "off_grid" in row["convention_flags"]
    }
    out = [f"{row}: off the grid, not flagged" for row in sorted(bad - flagged)]
    out += [f"{row}: flagged off_grid, but on the grid" for row in sorted(flagged - bad)]
    return out + listed(bad, folder, 4, "off the grid")


def check_throughput(folder: Path) -> list[str]:
    """Tokens per second x seconds per sample = mean tokens, within 10 %."""
    frame = load(folder)["efficiency"]
    bad = []
    for _, same in frame.groupby([*SETTING, "table_id", "benchmark_id"]):
        value = dict(zip(same.metric_id, same.value.astype(float), strict=True))
        if {"tokens_per_s", "latency_ms", "output_tokens"} <= value.keys():
            tokens = value["tokens_per_s"] * value["latency_ms"] / 1000
            row = same.row_id[same.metric_id == "output_tokens"].iloc[0]
            bad += [row] if abs(tokens / value["output_tokens"] - 1) > 0.1 else []
    return listed(bad, folder, 3, "tokens/s x s more than 10 % from the tokens")


def check_averages(folder: Path) -> list[str]:
    """Averages recomputed from the cells by their rule; more than 0.15 away, or not to be recomputed, is listed."""
    frames = load(folder)
    book = Averages(frames, folder)
    off, unknown, out = [], [], []
    for row in frames["aggregates"].to_dict("records"):
        try:
            mine = book.recompute(row)
        except LookupError:
            unknown.append(row["row_id"])
            blank = not row["recomputed"] and not row["difference"] and row["agreement"] == "not_recomputable"
            out += [f"{row['row_id']}: cannot be recomputed, but says {row['agreement']}"] * (not blank)
            continue
        difference = float(row["value"]) - mine
        stored = [float(row[key] or "nan") for key in ("recomputed", "difference")]
        if not all(abs(a - b) <= 0.00051 for a, b in zip(stored, (mine, difference), strict=True)):
            out.append(f"{row['row_id']}: recomputed {mine:.4f}, difference {difference:.4f}; stored {stored}")
        says = "ok" if abs(round(difference, 3)) <= 0.15 else "off"
        out += [f"{row['row_id']}: agreement {row['agreement']}, is {says}"] * (row["agreement"] != says)
        off += [row["row_id"]] if says == "off" else []
    members = [
        (r["row_id"], len([m for m in r["members"].split("|") if m]), r["n_members"])
        for _, r in rows(frames, ["aggregates"])
    ]
    out += [f"{row}: {n} members, says {said}" for row, n, said in members if n != int(said or 0)]
    return out + listed(off, folder, 1, "off its cells") + listed(unknown, folder, 2, "an average without cells")


class Averages:
    """Recomputes averages; LookupError where a cell, a rule or a reference is missing."""

    def __init__(self, frames: Frames, folder: Path) -> None:
        self.cells: dict[tuple[str, ...], dict[str, list[tuple[str, float]]]] = {}
        for _, row in rows(frames, ("results", "ablations")):
            same = self.cells.setdefault(tuple(row[key] for key in SETTING), {})
            value = (row["table_id"], float(row["value"]))
            same.setdefault(f"{row['benchmark_id']}:{row['metric_id']}", []).append(value)
        self.means = {
            (*(row[key] for key in SETTING), row["table_id"]): (int(row["n_members"] or 0), float(row["value"]))
            for _, row in rows(frames, ("aggregates",))
            if row["metric_id"] == "mean_score"
        }
        readme = (folder / "README.md").read_text(encoding="utf-8")
        usual = re.search(r"usual LLaVA-1.5-7B full row \((.*?)\)", readme)
        self.usual = dict(re.findall(r"(\w+) ([\d.]+)", usual[1] if usual else ""))

    def cell(self, row: Row, member: str, **other: str) -> float:
        """The cell of a member in the setting of an average, of the same table if it is there."""
        values = self.cells[tuple({**row, **other}[key] for key in SETTING)][member]
        tables = dict(reversed(values))
        return tables.get({**row, **other}["table_id"], values[0][1])

    def full(self, row: Row, member: str) -> float:
        """The unpruned model's cell, by the reference of the average."""
        benchmark, _, metric = member.partition(":")
        if row["reference"] == "usual full row":
            return float(self.usual.get(benchmark) or self.usual[metric])
        implied = re.findall(r"(\w+)(?:=| )([\d.]+)(?= implied|$| \w+=)", row["reference"])
        if benchmark in dict(implied):
            return float(dict(implied)[benchmark])
        own = [key for key in self.cells if key[:3] == (row["paper_id"], row["model_id"], "full")]
        values = [value for key in own for value in self.cells[key].get(member, [])]
        return dict(reversed(values)).get(row["table_id"], values[0][1])

    def recompute(self, row: Row) -> float:
        """The average as its rule says."""
        rule, members = row["rule"], [member for member in row["members"].split("|") if member]
        if rule in ("100 x mean / full mean", "100 x printed mean / full printed mean"):
            own = tuple(row[key] for key in SETTING)
            return 100 * self.printed_mean(own) / self.printed_mean((*own[:2], "full"))
        if not members or not rule:
            raise LookupError(row["row_id"])
        if rule.startswith("mean of 100 x cell / full cell"):
            return mean(100 * self.cell(row, member) / self.full(row, member) for member in members)
        if rule.startswith("mean of 100 x (with add-on - base) / base"):
            pairs = [(self.cell(row, m, table_id="main table"), self.cell(row, m, addon_id="", table_id="main table"))
                     for m in members]  # fmt: skip
            return mean(100 * (ours - base) / base for ours, base in pairs)
        divisors = {name.lower(): float(by) for name, by in re.findall(r"(\w+)(?: perception)? / (\d+)", rule)}
        return mean(self.cell(row, m) / divisors.get(m.partition(":")[0], 1.0) for m in members)

    def printed_mean(self, setting: tuple[str, ...]) -> float:
        """The printed mean over most members, of the setting that begins so."""
        found = [mean for key, mean in self.means.items() if key[: len(setting)] == setting]
        return max(found)[1]


def check_conflicts(folder: Path) -> list[str]:
    """conflicts.csv is what `spread` makes of results.csv, every row and field."""
    published, stored = Published.read(folder), load(folder)["conflicts"]
    mine = {}
    needed = ["setting", "paper_id", "value", "provenance", "copied_from", "status", "unit"]
    for setting, same in published.results[needed].groupby("setting"):
        found = spread(same) if len(same) > 1 else None
        if found and len(found.values) > 1:
            mine[tuple(str(setting).split("\t")[1 : len(KEY) + 1])] = [
                *(same.unit.iloc[0], str(len(found.values)), str(found.n_papers)),
                *(f"{round(x, 6):.10g}" for x in (found.min, found.median, found.max, found.max - found.min)),
                found.listed,
                ", ".join(found.copies),
                str(found.suspect).lower(),
            ]
    theirs = {tuple(row[: len(KEY)]): list(row[len(KEY) :]) for row in stored.to_numpy()}
    out = [f"conflicts: {key} is missing" for key in mine.keys() - theirs.keys()]
    out += [f"conflicts: {key} is no conflict" for key in theirs.keys() - mine.keys()]
    return out + [
        f"conflicts: {k} says {theirs[k]}, is {mine[k]}" for k in mine.keys() & theirs if mine[k] != theirs[k]
    ]


CHECKS: dict[str, Check] = {
    name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")
}
