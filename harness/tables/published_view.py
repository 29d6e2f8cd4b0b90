"""Published numbers as a table: one line per setting, with the range of what papers print (`vtpbench published`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import ascii_letters, digits
from typing import Any

import pandas as pd

from harness.tables.frames import TablesError
from harness.tables.published import KEY, Kind, Published, Spread, numbers, spread_of
from harness.tables.published_files import TABLES
from harness.tables.published_text import Block, PublishedTable

__all__ = ["PublishedTable", "kind_of", "overview", "published_table", "show"]

KINDS: tuple[Kind, ...] = ("method", "model", "benchmark")
HEADINGS = dict(zip(TABLES, ("scores", "component studies", "averages", "costs"), strict=True))
LEGEND = (
    "min, median and max of the distinct values that papers print without copying them; papers + copies: how many "
    "print one, and how many only repeat one. A single value stands under max.",
    "N ~: inferred from the digits, not stated. ?: a row is suspect. †: trained weights. Letters: see below the table. "
    "tok: visual tokens; mean tok: averaged over layers.",
)
_LETTERS = ascii_letters + digits + "*#§$&%@"


def published_table(*names: str | None, benchmark: str | None = None, folder: Path | None = None) -> PublishedTable:
    """What papers print of a method, a model or both; an overview without either.

    Args:
        names: names of a method, a model, a benchmark in any order, as papers print them or as ids; None is ignored.
        benchmark: a benchmark by keyword.
        folder: of the tables; the shipped one by default.

    Raises:
        TablesError: a name that no table knows, two names of one kind, or nothing printed of such a combination.
    """
    published = Published.read(folder)
    wanted: dict[Kind, str] = {} if benchmark is None else {"benchmark": benchmark}
    for name in filter(None, names):
        kind = kind_of(published, name)
        if kind in wanted:
            raise TablesError(f"{wanted[kind]} and {name} are both a {kind}; give a method, a model, a benchmark")
        wanted[kind] = name
    return show(published, **wanted) if wanted else overview(published)


def kind_of(published: Published, name: str) -> Kind:
    """Whether a name is one of a method, a model or a benchmark; the first table that knows it says."""
    failed = []
    for kind in KINDS:
        try:
            published.resolve(name, kind)
            return kind
        except TablesError as error:
            failed.append(str(error).rpartition("near: ")[2])
    near = "; ".join(f"{kind}s {names}" for kind, names in zip(KINDS, failed, strict=True) if names != "none")
    raise TablesError(f"no published method, model or benchmark is called {name!r}; near: {near or 'none'}")


def show(
    published: Published, *, method: str | None = None, model: str | None = None, benchmark: str | None = None
) -> PublishedTable:
    """One line per setting of a method, a model, a benchmark; scores, averages and costs never in one block."""
    rows = published.select(method=method, model=model, benchmark=benchmark)
    if rows.empty:
        asked = " and ".join(filter(None, (method, model, benchmark)))
        raise TablesError(f"no paper in the published tables prints numbers of {asked}")
    trained = set(published.methods.method_id[published.methods.trained == "true"])
    settings: dict[str, list[dict[Any, Any]]] = {}
    for row in rows[rows.status != "quarantined"].to_dict("records"):
        settings.setdefault(row["setting"], []).append(row)
    lines = [_line(same, spread_of(same), trained) for same in settings.values()]
    lines += [_line([row], None, trained) for row in rows[rows.status == "quarantined"].to_dict("records")]
    frame = pd.DataFrame(lines)
    order = frame.assign(table=frame.table.map(TABLES.index), size=-frame.retention_nominal.fillna(-1))
    order = order.sort_values(["quarantined", "model_id", "table", "label", "size", "benchmark_id"], kind="stable")
    frame = frame.loc[order.index].reset_index(drop=True)
    compared = frame[~frame.quarantined]
    blocks = [
        _block(f"{model or 'model not stated'} · {label} · {HEADINGS[str(table)]}", same)
        for (model, table, label), same in compared.groupby(["model_id", "table", "label"], sort=False)
    ]
    return PublishedTable(frame, (*blocks, *_refused(frame[frame.quarantined])), LEGEND)


def overview(published: Published) -> PublishedTable:
    """Papers with their number of rows, models, and rows by method and model."""
    rows = published.rows
    counts = rows.groupby(["method_id", "addon_id", "model_id", "table"]).size().rename("rows").reset_index()
    sources = rows.groupby(["paper_id", "table"]).size().unstack(fill_value=0)[list(TABLES)]
    papers = published.papers.rename(columns={"first_public": "public"}).set_index("paper_id")
    papers = papers.loc[list(dict.fromkeys(rows.paper_id)), ["arxiv", "public"]].join(sources).reset_index()
    models = [str(m) for m in published.models.model_id if (rows.model_id == m).any()]
    number: dict[str, str] = {model: str(i) for i, model in enumerate(models, 1)}
    by_model = rows[rows.model_id != ""].groupby("model_id")
    listed = pd.DataFrame({
        "#": [number[m] for m in models], "model": models, "rows": [by_model.size()[m] for m in models],
        "methods": [by_model.method_id.nunique()[m] for m in models],
        "papers": [by_model.paper_id.nunique()[m] for m in models],
    })  # fmt: skip
    label = (rows.method_id + rows.addon_id.map(lambda name: f"+{name}" if name else "")).rename("method")
    known = rows.model_id.map(number.get).rename("model")
    grid = pd.crosstab(label, known).reindex(columns=list(number.values()), fill_value=0)
    grid = grid.loc[grid.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    blocks = (
        Block(
            f"{len(rows)} numbers of {rows.paper_id.nunique()} sources",
            papers,
        ),
        Block(f"{len(models)} models", listed),
        Block("rows by method and model (# above)", grid.replace(0, "").reset_index()),
    )
    return PublishedTable(counts, blocks, ("vtpbench published METHOD and/or MODEL shows the numbers.",))


def _line(rows: Sequence[Mapping[Any, Any]], found: Spread | None, trained: set[str]) -> dict[str, Any]:
    """A setting as one row of the frame; `found` is None for what must not be compared."""
    first = rows[0]
    method = first["method_id"] + (f"+{first['addon_id']}" if first["addon_id"] else "")
    flags = dict.fromkeys(flag for row in rows for flag in row["convention_flags"].split(";") if flag)
    learned = first["method_id"] in trained or any(row["trained"] == "true" for row in rows)
    return {
        "table": first["table"],
        **{key: first[key] for key in KEY if key != "convention"},
        "label": method + (f" ({first['variant']})" if first["variant"] else ""),
        "retention_nominal": first["retention_nominal"],
        "budget_printed": max((row["budget_printed"] for row in rows), key=len),
        "aggregate_id": first["aggregate_id"],
        "unit": first["unit"],
        **{key: getattr(found, key) if found else None for key in ("min", "median", "max")},
        "papers": found.n_papers if found else 0,
        "copies": len(found.copies) if found else 0,
        "values": found.listed if found else f"{first['value_printed']}: {first['paper_id']}",
        **{key: first[key] for key in ("n_items", "n_source", "workload", "hardware", "batch", "convention")},
        "members": first["members"],
        "trained": "true" if learned else first["trained"],
        "suspect": bool(found and found.suspect),
        "quarantined": found is None,
        "flags": ";".join(flags),
        "rows": " ".join(row["row_id"] for row in rows),
        "reason": "" if found else first["note"],
    }


def _block(title: str, frame: pd.DataFrame) -> Block:
    letters: dict[str, str] = {}
    lines = [_cells(row, letters) for row in frame.to_dict("records")]
    cells = pd.DataFrame(lines)
    cells["budget"] = cells.budget.where(cells.budget != cells.budget.shift(), "")
    cells = cells.loc[:, [bool((cells[key] != "").any()) for key in cells]]
    cells = cells if "min" in cells else cells.rename(columns={"max": "value"})
    return Block(title, cells, tuple(f"{letter} {note}" for note, letter in letters.items()))


def _cells(row: Mapping[Any, Any], letters: dict[str, str]) -> dict[str, str]:
    what = " ".join(filter(None, (row["benchmark_id"] or row["aggregate_id"], row["version"], row["split"])))
    low, middle, high = numbers(row["min"], row["median"], row["max"])
    named = row["unit"].lower().replace("/", "_per_") in ("percent", *row["metric_id"].split("_"), row["metric_id"])
    unit = "" if named else f" {row['unit']}"
    marks = "".join(letters.setdefault(note, _LETTERS[len(letters)]) for note in _notes(row))
    return {
        "budget": _budget(row["budget_kind"], row["budget_printed"]),
        "benchmark": what,
        "metric": row["metric_id"].removeprefix(f"{row['benchmark_id']}_").replace("_", " ") + unit,
        "min": low if low != high else "",
        "median": middle if low != high else "",
        "max": high,
        "papers": f"{row['papers']}" + (f"+{row['copies']}" if row["copies"] else ""),
        "N": "" if pd.isna(row["n_items"]) else f"{row['n_items']:g}" + ("~" if row["n_source"] == "inferred" else ""),
        "": ("?" if row["suspect"] else "") + ("†" if row["trained"] == "true" else "") + marks,
    }


def _notes(row: Mapping[Any, Any]) -> Iterator[str]:
    """What a reader must know before comparing a line."""
    for flag in filter(None, row["flags"].split(";")):
        yield f"{flag.removeprefix('inferred:')} (inferred)" if flag.startswith("inferred:") else flag
    yield from (f"{key}: {row[key]}" for key in ("workload", "hardware", "convention") if row[key])
    if not pd.isna(row["batch"]):
        yield f"batch {row['batch']:g}"
    if row["members"]:
        yield "mean over " + row["members"].replace("|", ", ")
    if row["table"] == "efficiency" and not row["convention"]:
        yield "convention not stated: compare within the paper only"


def _budget(kind: str, printed: str) -> str:
    short = printed.replace("tokens", "tok")
    short = short.replace("tok", "mean tok") if kind == "layer_mean" else short
    return short or kind or "not given"


def _refused(frame: pd.DataFrame) -> Sequence[Block]:
    if frame.empty:
        return ()
    cells = pd.DataFrame({
        "row": frame.rows, "model": frame.model_id.replace("", "not stated"), "method": frame.label,
        "budget": frame.budget_printed, "metric": (frame.benchmark_id + " " + frame.metric_id).str.strip(),
        "printed": frame["values"], "reason": frame.reason,
    })  # fmt: skip
    return (Block("not compared (quarantined)", cells),)
