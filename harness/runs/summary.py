"""Running totals of a cell, and its summary."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

Record = Mapping[str, Any]


def failed(record: Record) -> bool:
    """Whether a sample ended in an error instead of a reply."""
    return record.get("finish") == "error"


def trace_length(record: Record) -> int:
    """Tokens generated."""
    return int(record["thinking_tokens"] + record["answer_tokens"])


def seconds(record: Record) -> float:
    """Seconds of prefill and decode."""
    return float(record["prefill_seconds"] + record["decode_seconds"])


def summarise(records: Iterable[Record], keep: float | None, tokens: int | None) -> dict[str, Any]:
    """Means over the samples that did not fail; `records` in a fixed order, so that sums are the same each time.

    There is no accuracy as long as samples are unjudged. Shares lie in 0..1, lengths are tokens, FLOPs and bytes are
    means per sample.
    """
    everything = list(records)
    good = [r for r in everything if not failed(r)]
    unjudged = sum(r["value"] is None for r in good)
    return {
        "accuracy": None if unjudged else _mean(r["value"] for r in good),
        "lenient": _mean(r["lenient"] for r in good),
        "n": len(good),
        "failures": len(everything) - len(good),
        "unjudged": unjudged,
        "unparsed": _mean(r["unparsed"] for r in good),
        "truncated": _mean(float(r["finish"].startswith("length")) for r in good),
        "ret_nominal": _nominal(good, keep, tokens),
        **{name: _mean(r[name] for r in good) for name in ("ret_prefill", "ret_decode", "kv")},
        "visual_tokens": _mean(r["visual_tokens"] for r in good),
        "trace_length_mean": _mean(map(trace_length, good)),
        "trace_length_median": statistics.median(map(trace_length, good)) if good else None,
        "flops": _means([r["flops"] for r in good]),
        "kv_bytes": _means([r["kv_bytes"] for r in good]),
        "seconds": _mean(map(seconds, good)),
    }


def _nominal(records: list[Record], keep: float | None, tokens: int | None) -> float | None:
    if tokens is None:
        return keep
    return _mean(min(1.0, tokens / r["visual_tokens"]) for r in records if r["visual_tokens"])


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _means(parts: list[Mapping[str, float]]) -> dict[str, float | None]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: _mean(part.get(name) for part in parts) for name in names}
