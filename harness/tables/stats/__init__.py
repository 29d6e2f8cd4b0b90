"""Statistics of one leaderboard: intervals, paired tests, equivalence, and the correction for many cells.

Credits lie in 0..1. Items that share a picture or a seed question form a cluster; clusters, never items, are what is
drawn anew. Every random number comes from a fixed seed, so a table is the same each time it is printed.
"""

from harness.tables.stats.accuracy import Estimate, accuracy
from harness.tables.stats.paired import ALPHA, Difference, Verdict, holm, paired, verdict
from harness.tables.stats.resample import LEVEL, RESAMPLES, SEED, Array

__all__ = ["ALPHA", "LEVEL", "RESAMPLES", "SEED", "Array", "Difference", "Estimate", "Verdict",
           "accuracy", "holm", "paired", "verdict"]  # fmt: skip
