"""The leaderboard as the page sorts and filters it: sections, columns and texts of `vtpbench table`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.report.page.plain import Json
from harness.tables.columns import KEYS, Row, Section, rest


def is_self_test(benchmark: str) -> bool:
    """Whether a benchmark says something of the harness alone."""
    return benchmark.startswith("glyph_")


def full_name(row: Row) -> str:
    """A method with its add-on."""
    return str(row["method"]) if row["addon"] == "none" else f"{row['method']}+{row['addon']}"


def sections(rows: Sequence[Row]) -> list[Json]:
    """A section for each setting, those of real benchmarks first; what may not stand side by side is never in one."""
    shared, out = rest(rows), []
    for title in sorted({row["title"] for row in rows}):
        own = [row for row in rows if row["title"] == title]
        columns = Section(title, own, list(rows), shared).columns()
        first = own[0]
        out.append({
            "title": title, "model": first["model"], "benchmark": first["benchmark"],
            "selfTest": is_self_test(first["benchmark"]),
            "columns": [{"head": " ".join(filter(None, c.head)), "left": c.left, "key": c.group == KEYS}
                        for c in columns],
            "rows": [{"method": full_name(row), "texts": [c.text(row) for c in columns]} for row in own],
        })  # fmt: skip
    return sorted(out, key=lambda section: bool(section["selfTest"]))


def choices(found: Sequence[Json]) -> dict[str, list[Any]]:
    """What the selects offer."""
    methods = {row["method"] for section in found for row in section["rows"]}
    named = {key: {section[key] for section in found} for key in ("model", "benchmark")}
    return {key: sorted(values) for key, values in {**named, "method": methods}.items()}
