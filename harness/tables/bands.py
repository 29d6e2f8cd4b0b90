"""Bands of equal budget: only methods that were given as much are compared."""

from __future__ import annotations

import math
from collections.abc import Sequence

TOLERANCE = 0.05
BUDGETS = {
    "ret_nominal": "visual tokens kept, as asked for and not as executed",
    "ret_prefill": "visual tokens kept in prefill, as executed",
    "ret_decode": "visual tokens kept in decoding, as executed",
    "kv": "resident KV, as executed",
    "flops": "FLOPs, as executed",
}


def bands(budgets: Sequence[float], tolerance: float = TOLERANCE) -> list[int | None]:
    """The band of each budget, 1 for the largest; None for those that are not known (NaN).

    From the largest down: a band begins with the largest budget left and takes all that are at most the share
    `tolerance` smaller.
    """
    found: dict[float, int] = {}
    top, number = math.inf, 0
    for budget in sorted({b for b in budgets if not math.isnan(b)}, reverse=True):
        if number == 0 or budget < top * (1 - tolerance):
            top, number = budget, number + 1
        found[budget] = number
    return [found.get(budget) for budget in budgets]
