"""Metrics over groups of samples: MMBench's circular accuracy, MM-Vet's grades."""

from __future__ import annotations

from harness.benchmarks.scoring.verdict import Metric

METRICS: dict[str, Metric] = {}
