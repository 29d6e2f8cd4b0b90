"""Statistics of one leaderboard: intervals, paired tests, equivalence, and the correction for many cells.

Credits lie in 0..1. Items that share a picture or a seed question form a cluster; clusters, never items, are what is
drawn anew. Every random number comes from a fixed seed, so a table is the same each time it is printed.
"""

from harness.tables.stats.accuracy import Estimate, accuracy
from harness.tables.stats.lengths import log_ratio
from harness.tables.stats.metrics import metric, metric_paired
from harness.tables.stats.paired import ALPHA, Difference, Verdict, holm, paired, verdict
from harness.tables.stats.power import POWER, design_effect, detectable, power
from harness.tables.stats.relative import relative
from harness.tables.stats.repeated import repeated
from harness.tables.stats.resample import LEVEL, RESAMPLES, SEED, Array, Clusters

__all__ = ["ALPHA", "LEVEL", "POWER", "RESAMPLES", "SEED", "Array", "Clusters", "Difference", "Estimate", "Verdict",
           "accuracy", "design_effect", "detectable", "holm", "log_ratio", "metric", "metric_paired", "paired",
           "power", "relative", "repeated", "verdict"]  # fmt: skip
