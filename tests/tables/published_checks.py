"""Checks of a folder of published numbers; each returns what is wrong, a line per problem.

What fails a check of the numbers themselves (averages, throughput, digits) must stand in EXCEPTIONS.md, and what stands
there must fail: so the list can neither miss a row nor keep one that was corrected.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from functools import lru_cache
from pathlib import Path

import pandas as pd

from harness.tables.published import KEY, TABLES, read_table

Row = dict[str, str]
Frames = dict[str, pd.DataFrame]
Check = Callable[[Path], list[str]]

_COMMON = "row_id paper_id table_id model_id method_id addon_id variant"
_BUDGET = "budget_kind budget_value budget_base_tokens retention_nominal budget_printed"
_SCORE = "benchmark_id version split n_items n_source metric_id value value_printed unit protocol_id convention_flags"
_END = "trained provenance copied_from read_from status note"
_AVERAGE = "members n_members metric_id value value_printed unit rule reference recomputed difference agreement"
_COST = "workload metric_id value value_printed unit unit_printed hardware batch convention protocol_id"
COLUMNS = {
    "results": f"{_COMMON} {_BUDGET} {_SCORE} {_END}",
    "ablations": f"{_COMMON} component setting {_BUDGET} {_SCORE} {_END}",
    "aggregates": f"{_COMMON} {_BUDGET} aggregate_id {_AVERAGE} protocol_id {_END}",
    "efficiency": f"{_COMMON} {_BUDGET} benchmark_id version split {_COST} {_END}",
    "papers": "paper_id title arxiv venue year first_public not_before text_seen source_rows note",
    "models": "model_id name hub_id family base_visual_tokens printed_names note",
    "methods": "method_id name kind paper_id trained note",
    "method_aliases": "alias paper_id method_id addon_id variant note",
    "benchmarks": "benchmark_id version split name kind n_items steps_per_item printed_names note",
    "metrics": "metric_id name unit higher_better min max tables note",
    "protocols": "protocol_id paper_id framework decoding max_new_tokens judge note",
    "conflicts": f"{' '.join(KEY)} unit n_values n_papers min median max spread values copies any_suspect",
    "granularity": (
        "paper_id benchmark_id n_items steps_per_item distinct_values on_grid chance p_value verdict off_grid_values"
    ),
}
IDS = {
    "papers": ["paper_id"],
    "models": ["model_id"],
    "methods": ["method_id"],
    "method_aliases": ["paper_id", "alias"],
    "benchmarks": ["benchmark_id", "version", "split"],
    "metrics": ["metric_id"],
    "protocols": ["protocol_id"],
    "conflicts": list(KEY),
    "granularity": ["paper_id", "benchmark_id", "n_items", "steps_per_item"],
}
SETTING = ["paper_id", "model_id", "method_id", "addon_id", "variant", "budget_kind", "budget_value"]
WORDS = {
    "budget_kind": {"full", "tokens", "layer_mean", "ratio", "cap", "dynamic", ""},
    "trained": {"true", "false", ""},
    "provenance": {"measured", "rerun", "copied", "unknown"},
    "read_from": {"text", "ocr", "secondary"},
    "status": {"ok", "suspect", "quarantined"},
    "n_source": {"stated", "inferred", "unknown"},
    "agreement": {"ok", "off", "not_recomputable"},
    "unit_printed": {"ms", "s", "GB", "MB", "TFLOPs", "GFLOPs", "tokens", "tokens/s", "samples/s", "x", "%"}
    | {"min:s", "h:m:s"},
}
FLAGS = {
    *("textvqa_ocr", "textvqa_no_ocr", "pope_f1", "pope_acc", "mme_p_plus_c", "mme_p_only", "mme_c_only"),
    *("vizwiz_test", "vizwiz_val", "seed_all", "sqa_test", "sqa_val", "mathverse_788", "mathverse_3940"),
    *("mmbench_dev", "wemath_half_steps", "ocrbench_pct", "fixed_visual_tokens", "retention_is_mean"),
    *("flops_matched", "off_grid"),
}
SCALE = {("GFLOPs", "TFLOPs"): Decimal("0.001"), ("s", "ms"): Decimal(1000)}
"""Printed unit to unit of value, where they are not the same."""


def load(folder: Path) -> Frames:
    return {name: _table((folder / f"{name}.csv").resolve()) for name in COLUMNS}


@lru_cache
def _table(file: Path) -> pd.DataFrame:
    return read_table(file.parent, file.stem)


def rows(frames: Frames, names: Iterable[str] = TABLES) -> Iterator[tuple[str, Row]]:
    """Every row of the tables of numbers, with the name of its table."""
    for name in names:
        columns = [frames[name][key].tolist() for key in frames[name]]
        for values in zip(*columns, strict=True):
            yield name, dict(zip(frames[name], values, strict=True))


def exceptions(folder: Path, section: int) -> dict[str, list[str]]:
    """Fields of the table in a section of EXCEPTIONS.md, by row id."""
    text = (folder / "EXCEPTIONS.md").read_text(encoding="utf-8")
    part = next(p for p in re.split(r"^## ", text, flags=re.M) if p.startswith(f"{section}."))
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines()]
    return {cells[0]: cells for cells in lines if re.fullmatch(r"p\d+", cells[0])}


def listed(failing: Iterable[str], folder: Path, section: int, what: str) -> list[str]:
    """Problems: failing rows that are not in a section, rows of the section that do not fail."""
    found, known = set(failing), set(exceptions(folder, section))
    out = [f"{row}: {what}, not in EXCEPTIONS.md {section}" for row in sorted(found - known)]
    return out + [f"{row}: in EXCEPTIONS.md {section}, but not {what}" for row in sorted(known - found)]


def check_headers(folder: Path) -> list[str]:
    """Columns, and that the README names every one of them."""
    readme = (folder / "README.md").read_text(encoding="utf-8")
    out = []
    for name, columns in COLUMNS.items():
        header = (folder / f"{name}.csv").read_text(encoding="utf-8").partition("\n")[0].split(",")
        out += [f"{name}: columns {header}"] if header != columns.split() else []
        out += [f"README: no {name}.{column}" for column in columns.split() if column not in readme]
    return out


def check_ids(folder: Path) -> list[str]:
    """Row ids run from p0001 without a gap; keys of the small tables are unique, aliases whatever their case."""
    frames = load(folder)
    ids = [row["row_id"] for _, row in rows(frames)]
    out = [f"{i}: row id twice" for i in sorted({i for i in ids if ids.count(i) > 1})] if len({*ids}) < len(ids) else []
    out += [f"{i}: not a row id of p0001 to p{len(ids):04}" for i in ids if not re.fullmatch(r"p\d{4}", i)]
    out += [f"p{i:04}: missing" for i in range(1, len(ids) + 1) if f"p{i:04}" not in {*ids}]
    for name, key in IDS.items():
        frame = frames[name][key].apply(lambda column: column.str.lower())
        out += [f"{name}: {'/'.join(row)} twice" for row in frame[frame.duplicated()].to_numpy()]
    return out


def check_duplicates(folder: Path) -> list[str]:
    """No score stands twice under the second key of the README."""
    key = [*SETTING, "table_id", "budget_base_tokens", "budget_printed", "benchmark_id", "version", "split"]
    frame = load(folder)["results"]
    twice = frame.duplicated([*key, "metric_id", "protocol_id", "convention_flags"], keep=False)
    return [f"{row}: another row has the same key" for row in frame.row_id[twice]]


def check_foreign_keys(folder: Path) -> list[str]:
    """Every id that a table uses is in the table that owns it."""
    frames = load(folder)
    known = {f"{name.removesuffix('s')}_id": {*frames[name][f"{name.removesuffix('s')}_id"]} for name in IDS
             if name in ("papers", "models", "methods", "benchmarks", "metrics", "protocols")}  # fmt: skip
    places = {tuple(place) for place in frames["benchmarks"][IDS["benchmarks"]].to_numpy()}
    protocols = dict(zip(frames["protocols"].protocol_id, frames["protocols"].paper_id, strict=True))
    out = []
    for name in COLUMNS:
        owners = known if name in TABLES else known | {"addon_id": known["method_id"] | {""}}
        optional = name == "methods" or name in ("method_aliases", "conflicts", "granularity")
        for i, row in enumerate(frames[name].to_dict("records")):
            label = row.get("row_id", f"{name} {i + 1}")
            for column, ids in owners.items():
                empty = row.get(column) == "" and (optional or column in ("model_id", "benchmark_id"))
                if column in row and row[column] not in ids and not empty:
                    out.append(f"{label}: unknown {column} {row[column]!r}")
            if {"version", "split"} <= row.keys() and row["benchmark_id"] and name != "conflicts":
                place = tuple(row[key] for key in IDS["benchmarks"])
                out += [f"{label}: unknown benchmark {place}"] if place not in places else []
    for _, row in rows(frames):
        out += [f"{row['row_id']}: unknown add-on {row['addon_id']}"] * (
            row["addon_id"] not in known["method_id"] | {""}
        )
        out += [f"{row['row_id']}: model missing"] * (not row["model_id"] and row["status"] != "quarantined")
        copied = row["copied_from"] in known["paper_id"] if row["provenance"] == "copied" else not row["copied_from"]
        out += [f"{row['row_id']}: copied_from {row['copied_from']!r} with {row['provenance']}"] * (not copied)
        out += [f"{row['row_id']}: copied from itself"] * (row["copied_from"] == row["paper_id"])
        out += [f"{row['row_id']}: protocol of another paper"] * (protocols.get(row["protocol_id"]) != row["paper_id"])
        for member in filter(None, row.get("members", "").split("|")):
            benchmark, _, metric = member.partition(":")
            if benchmark not in known["benchmark_id"] or metric not in known["metric_id"]:
                out.append(f"{row['row_id']}: unknown member {member}")
    return out


def check_units(folder: Path) -> list[str]:
    """Unit, table and range are those of the metric."""
    frames = load(folder)
    metrics = frames["metrics"].set_index("metric_id").to_dict("index")
    out = []
    for name, row in rows(frames):
        metric = metrics.get(row["metric_id"], {"unit": "", "tables": "", "min": "0", "max": "0"})
        out += [f"{row['row_id']}: unit {row['unit']}"] * (row["unit"] != metric["unit"])
        out += [f"{row['row_id']}: {row['metric_id']} in {name}"] * (name not in metric["tables"].split(";"))
        inside = Decimal(metric["min"]) <= Decimal(row["value"]) <= Decimal(metric["max"])
        out += [f"{row['row_id']}: {row['value']} out of range"] * (not inside)
    return out


def check_values(folder: Path) -> list[str]:
    """The value is the printed string, exactly: clocks in seconds, s in ms, GFLOPs in TFLOPs."""
    return [
        f"{row['row_id']}: {row['value']} is not {row['value_printed']}"
        for _, row in rows(load(folder))
        if Decimal(row["value"]) != printed(row)
    ]


def printed(row: Row) -> Decimal:
    """The printed string in the unit of the value."""
    total = Decimal(0)
    for part in row["value_printed"].rstrip("%x").split(":"):  # h:m:s or m:s; a plain number has one part
        total = total * 60 + Decimal(part)
    return total * SCALE.get((row.get("unit_printed", ""), row["unit"]), Decimal(1))


def check_words(folder: Path) -> list[str]:
    """Fields with a fixed vocabulary."""
    out = []
    for _, row in rows(load(folder)):
        bad = [key for key, words in WORDS.items() if row.get(key, min(words)) not in words]
        flags = {flag.removeprefix("inferred:") for flag in row.get("convention_flags", "").split(";")} - {""}
        out += [f"{row['row_id']}: {key} {row[key]!r}" for key in bad]
        out += [f"{row['row_id']}: flag {flag}" for flag in sorted(flags - FLAGS)]
        out += [f"{row['row_id']}: n_source without n_items"] * (
            "n_items" in row and (row["n_items"] == "") != (row["n_source"] == "unknown")
        )
    return out


def check_budgets(folder: Path) -> list[str]:
    """Retention follows from tokens and base, and the printed text agrees with both."""
    out = []
    for _, row in rows(load(folder)):
        kind, value, base = row["budget_kind"], row["budget_value"], row["budget_base_tokens"]
        kept, text = row["retention_nominal"], row["budget_printed"]
        expected = value if kind in ("ratio", "cap", "dynamic") else "1" if kind == "full" else ""
        if kind in ("tokens", "layer_mean") and value and base:
            expected = f"{float(value) / float(base):.4f}"
        if (Decimal(expected) if expected else None) != (Decimal(kept) if kept else None):
            out.append(f"{row['row_id']}: retention {kept!r}, expected {expected!r}")
        if kind == "full" and value != base:
            out.append(f"{row['row_id']}: full is {value} of {base} tokens")
        if (tokens := re.match(r"(\d+) tokens", text)) and tokens[1] != value:
            out.append(f"{row['row_id']}: printed {text}, budget {value}")
        share = re.search(r"([\d.]+)%", text)
        if share and kept and abs(float(share[1]) - 100 * float(kept)) > 0.051:
            out.append(f"{row['row_id']}: printed {text}, retention {kept}")
    return out


def check_counts(folder: Path) -> list[str]:
    """The counts in the README, and rows by paper in papers.csv."""
    frames, readme = load(folder), (folder / "README.md").read_text(encoding="utf-8")
    out, totals = [], [0, 0, 0, 0]
    for name in TABLES:
        frame = frames[name]
        status = [int((frame.status == word).sum()) for word in ("ok", "suspect", "quarantined")]
        origin = [int((frame.provenance == word).sum()) for word in ("measured", "rerun", "copied", "unknown")]
        totals = [a + b for a, b in zip(totals, [len(frame), *status], strict=True)]
        line = f"| {name}.csv | {' | '.join(map(str, [len(frame), *status, *origin]))} |"
        out += [f"README: counts of {name} are {line}"] * (line not in readme)
    agreement = frames["aggregates"].agreement.value_counts()
    inferred = [row for _, row in rows(frames, ("results", "ablations")) if row["n_source"] == "inferred"]
    off = [row for row in inferred if "off_grid" in row["convention_flags"]]
    sources = {row["paper_id"] for _, row in rows(frames)}
    sentences = [
        f"| all | {' | '.join(map(str, totals))} |",
        f"papers.csv {len(frames['papers'])} ({len(sources)} of them sources of rows)",
        *(f"{name}.csv {len(frames[name])}" for name in IDS if name != "papers"),
        f"Checks: {agreement['ok']} of the {agreement['ok'] + agreement['off']} averages",
        f"{agreement['off']} do not and {agreement['not_recomputable']} cannot be recomputed",
        f"{len(inferred)} rows carry an inferred `n_items`; {len(off)} of them are off the grid",
    ]
    out += [f"README: should say {text!r}" for text in sentences if text not in readme]
    for row in frames["papers"].to_dict("records"):
        n = sum(int((frames[name].paper_id == row["paper_id"]).sum()) for name in TABLES)
        out += [f"papers: {row['paper_id']} has {n} rows"] * (int(row["source_rows"]) != n)
    return out


def check_exceptions(folder: Path) -> list[str]:
    """Every row that EXCEPTIONS.md names is there, with the value that it says was printed."""
    known = {row["row_id"]: row for _, row in rows(load(folder))}
    column = {1: 2, 2: 2, 3: 2, 4: 4, 5: 2}
    out = []
    for section, place in column.items():
        for row, cells in exceptions(folder, section).items():
            if row not in known:
                out.append(f"EXCEPTIONS.md {section}: no row {row}")
            elif cells[place].split()[0] != known[row]["value_printed"]:
                out.append(
                    f"EXCEPTIONS.md {section}: {row} is printed {known[row]['value_printed']}, not {cells[place]}"
                )
    return out


CHECKS: dict[str, Check] = {
    name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")
}
