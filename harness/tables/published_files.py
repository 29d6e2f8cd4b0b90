"""The files of results/published as they are written; what is missing or damaged raises `TablesError`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

import harness
from harness.tables.frames import TablesError

TABLES = ("results", "ablations", "aggregates", "efficiency")
"""The tables that hold printed numbers; the others describe them."""
_RESTORE = "install again, or restore the folder from the repository"
_NUMBERS = (
    *("value", "budget_value", "budget_base_tokens", "retention_nominal", "n_items", "n_members", "recomputed"),
    *("difference", "batch", "base_visual_tokens", "steps_per_item", "min", "max", "median", "spread", "n_values"),
    *("n_papers", "distinct_values", "on_grid", "chance", "p_value", "source_rows"),
)
_FIRST = {
    "papers": "paper_id", "models": "model_id", "methods": "method_id", "method_aliases": "alias",
    "benchmarks": "benchmark_id", "metrics": "metric_id", "protocols": "protocol_id", "conflicts": "model_id",
    "granularity": "paper_id",
} | dict.fromkeys(TABLES, "row_id")  # fmt: skip


def shipped() -> Path:
    """The folder of the shipped tables."""
    package = Path(harness.__file__).parent
    places = (package / "published", package.parent / "results" / "published")
    if found := next((place for place in places if place.is_dir()), None):
        return found
    raise TablesError(f"the published tables are not there: {places[1]} (in a wheel {places[0]}); {_RESTORE}")


def read_table(folder: Path, name: str) -> pd.DataFrame:
    """One table as it is written, every field a string. Raises TablesError if it is missing or no such table."""
    file = folder / f"{name}.csv"
    try:
        frame = pd.read_csv(file, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise TablesError(f"{file}: {reason}; {_RESTORE}") from None
    if frame.empty or frame.columns[0] != _FIRST[name]:
        raise TablesError(f"{file} is no table of {name.replace('_', ' ')} by {_FIRST[name]}; {_RESTORE}")
    return frame


def numeric(frame: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """A table of a folder with its numbers as floats, NaN if empty. Raises TablesError for one that is no number."""
    try:
        return frame.assign(**{key: pd.to_numeric(frame[key]) for key in _NUMBERS if key in frame})
    except ValueError as error:
        raise TablesError(f"a table in {folder} is damaged: {error}; {_RESTORE}") from None
