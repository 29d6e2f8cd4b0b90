"""Several replies per sample: pass@k, whether one of k is right, and mean@k, how good the first k are."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.runs.summary import Record, failed


def parse(metric: str) -> tuple[str, int] | None:
    """("pass" or "mean", k) of a name such as "pass@2"; None for any other name."""
    found = re.fullmatch(r"(pass|mean)@([1-9]\d*)", metric)
    return (found[1], int(found[2])) if found else None


def pass_at(n: int, right: int, k: int) -> float:
    """Chance that one of k replies drawn from n is right: 1 - C(n - c, k) / C(n, k), unbiased (Chen et al., 2021).

    Raises:
        ValueError: k is more than n.
    """
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs {k} replies to a sample, there are {n}")
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def value(kind: str, k: int, credits: Sequence[float]) -> float:
    """pass@k of a sample whose replies have these credits (1 is right), or the mean of the first k.

    Raises:
        ValueError: k is more than there are.
    """
    if kind == "pass":
        return pass_at(len(credits), sum(credit == 1 for credit in credits), k)
    if k > len(credits):
        raise ValueError(f"mean@{k} needs {k} replies to a sample, there are {len(credits)}")
    return sum(credits[:k]) / k


def at_k(records: Iterable[Record], n: int) -> dict[str, Any]:
    """pass@k and mean@k for k = 1, 2, 4, ... and n over the samples that have all n replies, none of them unjudged."""
    found: dict[str, dict[int, float]] = {}
    for record in records:
        if not failed(record) and record["value"] is not None:
            found.setdefault(record["id"], {})[record["repeat"]] = record["value"]
    whole = [_ordered(credits) for credits in found.values() if len(credits) == n]
    ks = sorted({n, *(2**i for i in range(n.bit_length()))})
    names = [(kind, k) for kind in ("pass", "mean") for k in ks if k <= n and whole]
    means = {f"{kind}@{k}": sum(value(kind, k, credits) for credits in whole) / len(whole) for kind, k in names}
    return {"replies": n, "samples": len(whole), **means}


def _ordered(credits: Mapping[int, float]) -> list[float]:
    return [credits[repeat] for repeat in sorted(credits)]
