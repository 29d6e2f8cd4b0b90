"""pass@k and mean@k in tables: every sample becomes one row, so that all statistics stay as they are."""

from __future__ import annotations

import pandas as pd

from harness.runs.at_k import parse, value
from harness.tables.frames import TablesError


def collapsed(cells: pd.DataFrame, samples: pd.DataFrame, metric: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The frames of `load` with pass@k or mean@k in place of credits and accuracy, one row per sample.

    Samples that lack one of their cell's replies (failed, unjudged or not run yet) are left out. Cells with fewer than
    k replies to a sample have none.

    Raises:
        TablesError: k is more than any cell has.
    """
    asked = parse(metric)
    assert asked is not None
    kind, k = asked
    replies = samples.groupby("cell", observed=True)["repeat"].nunique()
    if (most := int(replies.max())) < k:
        raise TablesError(f"{metric} needs {k} replies to a sample, the cells here have at most {most} (repeats=)")
    done = samples[~samples.failed & samples.credit.notna() & samples.cell.map(replies).astype(int).ge(k)]
    each = done.sort_values("repeat", kind="stable").groupby(["cell", "id"], observed=True, sort=False)
    found = each.first().assign(credit=each.credit.agg(lambda credits: value(kind, k, list(credits))))
    found = found[each.size() == replies.reindex(found.index.get_level_values("cell")).to_numpy()]
    rows = found.reset_index().assign(repeat=0, line=None)[samples.columns]
    by_cell = rows.groupby("cell", observed=True)
    cells = cells.set_index("cell").assign(n=by_cell.size(), accuracy=by_cell.credit.mean(), metric="mean")
    return cells.assign(n=cells.n.fillna(0).astype(int), unjudged=0).reset_index(), rows
