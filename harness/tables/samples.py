"""The samples of one cell as columns, read from its logs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from harness.runs.errors import InputError
from harness.runs.scores import VERDICT, ScoreSpec, iter_scored, measure
from harness.runs.summary import failed, seconds, trace_length

FLOPS = ("vision", "prefill", "decode", "overhead")
KV_BYTES = ("visible", "resident", "allocated")
MEANS = (
    *("lenient", "unparsed", "truncated", "visual_tokens", "ret_prefill", "ret_decode", "kv", "evidence"),
    *(f"flops_{part}" for part in FLOPS),
    *(f"kv_{kind}" for kind in KV_BYTES),
    *("prefill_seconds", "decode_seconds", "seconds"),
)
_COPIED = ("id", "repeat", "extracted", "answer", "category", "cluster", "text", "finish", "error")
_MEASURED = (
    *("text_tokens", "visual_tokens", "ret_prefill", "ret_decode", "kv", "evidence"),
    *("prefill_seconds", "decode_seconds"),
)
_NUMBERS = tuple(dict.fromkeys(("credit", "trace_length", "triggers", "peak_memory", *_MEASURED, *MEANS)))
_TYPES = dict.fromkeys(_COPIED, pa.large_string()) | {"repeat": pa.int64(), "failed": pa.bool_()}
_SCORED = ("id", "repeat", "finish", "answer", "category", "cluster", "meta")
"""What metrics read of a line, besides its verdict."""


def read_samples(folder: Path, config: Mapping[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
    """One row per sample and repeat (the columns of `samples_frame` but `cell`), and the headline of the cell.

    Args:
        folder: of the cell.
        config: its configuration; only `scoring` is read.

    Returns:
        The rows, and metric, metric_value, metric_note and versions (of the code that made the samples). `line` holds
        what the metric is computed from, as JSON, unless that is the mean of credits.

    Raises:
        InputError: a line is damaged.
    """
    spec = ScoreSpec.read(folder, config)
    columns: dict[str, list[Any]] = {name: [] for name in (*_TYPES, *_NUMBERS)}
    scored, versions = [], set()
    try:
        for _, line in iter_scored(folder, spec):
            scored.append({name: line[name] for name in (*_SCORED, *VERDICT) if name in line})
            versions.add(line.get("code"))
            row = _row(line)
            for name, column in columns.items():
                column.append(row.get(name))
        arrays = {name: _array(columns[name], kind) for name, kind in _TYPES.items()}
        arrays |= {name: pa.array(np.array(columns[name], dtype=np.float64)) for name in _NUMBERS}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder}: a line of the logs is not that of a sample ({error!r})") from None
    metric = spec.scoring.metrics[0]
    headline = measure(scored, [metric])[metric]
    lines = [None if metric == "mean" else json.dumps(line) for line in scored]
    about = {"metric": metric, "metric_value": headline["value"], "metric_note": headline["note"]}
    return pa.table(arrays | {"line": pa.array(lines, pa.large_string())}), about | {"versions": len(versions)}


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    """A column; half a surrogate pair, which Arrow's texts cannot hold, is spelt out."""
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:
        spelt = (v.encode("utf-8", "backslashreplace").decode() if isinstance(v, str) else v for v in values)
        return pa.array(list(spelt), kind)


def _row(line: Mapping[str, Any]) -> dict[str, Any]:
    row = {"repeat": 0, **{key: line[key] for key in _COPIED if key in line}, "failed": failed(line)}
    row["cluster"] = line.get("cluster") or line["id"]
    if row["failed"]:
        return row
    return row | {
        "credit": line["value"],
        "lenient": line["lenient"],
        "unparsed": line["unparsed"],
        **{key: line.get(key) for key in _MEASURED},
        **{f"flops_{part}": line.get("flops", {}).get(part) for part in FLOPS},
        **{f"kv_{kind}": line.get("kv_bytes", {}).get(kind) for kind in KV_BYTES},
        "trace_length": trace_length(line),
        "triggers": len(line.get("triggers", ())),
        "peak_memory": line.get("peak_memory"),
        "seconds": seconds(line),
        "truncated": str(line.get("finish")).startswith("length"),
    }
