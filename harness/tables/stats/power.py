"""How many samples a difference needs to be seen, and which difference so many samples show.

Normal formula for paired shares (Connor, Biometrics 43, 1987): n = (z_a sqrt(s) + z_b sqrt(s - d^2))^2 / d^2 with the
share s of discordant samples and the difference d. Clusters multiply n by their design effect.
"""

from __future__ import annotations

import math

from scipy.special import ndtri

from harness.tables.frames import TablesError
from harness.tables.stats.paired import ALPHA
from harness.tables.stats.resample import Array, Clusters, by_cluster

POWER = 0.8


def power(
    discordant: float,
    difference: float = 0.01,
    alpha: float = ALPHA,
    power: float = POWER,
    tests: int = 1,
    design: float = 1.0,
) -> int:
    """Samples needed to see a difference.

    Args:
        discordant: share of samples on which the two methods differ, as seen so far.
        difference: of accuracy, as a share (0.01: one point); no larger than `discordant`.
        alpha: two-sided level.
        power: chance to see it.
        tests: comparisons in the table; the level is divided by them (Holm's first step).
        design: the design effect of clusters (`design_effect`).

    Raises:
        TablesError: the numbers allow no answer.
    """
    _check(discordant, alpha, power, tests, design)
    if not 0 < difference <= discordant:
        raise TablesError(
            f"a difference of {difference:g} needs at least as many discordant samples, got {discordant:g}"
        )
    level, chance = float(-ndtri(alpha / tests / 2)), float(ndtri(power))
    root = level * math.sqrt(discordant) + chance * math.sqrt(discordant - difference**2)
    return math.ceil(design * (root / difference) ** 2)


def detectable(
    n: int,
    discordant: float,
    alpha: float = ALPHA,
    power: float = POWER,
    tests: int = 1,
    design: float = 1.0,
) -> float:
    """The smallest difference that n samples show with this chance, the inverse of `power`.

    Infinite where even discordant samples that all speak for one method would be too few.

    Raises:
        TablesError: the numbers allow no answer.
    """
    _check(discordant, alpha, power, tests, design)
    if n < 1:
        raise TablesError(f"n must be at least 1, got {n}")
    free, level, chance = n / design, float(-ndtri(alpha / tests / 2)), float(ndtri(power))
    inside = free - level**2 + chance**2  # the formula above, squared and solved for d
    if inside < 0:
        return math.inf
    found = math.sqrt(discordant) * (level * math.sqrt(free) + chance * math.sqrt(inside)) / (free + chance**2)
    return found if found <= discordant else math.inf


def design_effect(values: Array, cluster: Clusters) -> float:
    """How much clusters widen the variance of the mean of values [n]: 1 + (size - 1) ICC where clusters are equal.

    Kish, Survey Sampling (1965), chapter 8: variance between clusters (linearised) over that of single draws. Compared
    methods share much of what clusters share, so pass their difference.
    """
    total, size = by_cluster(values, cluster)
    clusters, n = size.size, values.size
    spread = float(((values - values.mean()) ** 2).sum())
    if clusters < 2 or not spread:
        return 1.0
    between = float(((total - values.mean() * size) ** 2).sum())
    return between / spread * clusters / (clusters - 1) * (n - 1) / n


def _check(discordant: float, alpha: float, power: float, tests: int, design: float) -> None:
    if not 0 < discordant <= 1:
        raise TablesError(f"the discordant share must lie in (0, 1], got {discordant:g}")
    if not (0 < alpha < 0.5 <= power < 1 and tests >= 1 and design > 0):
        raise TablesError(f"no level {alpha:g}, power {power:g}, {tests} tests or design effect {design:g}")
