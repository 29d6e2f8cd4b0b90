"""Yes/no questions: POPE."""

from __future__ import annotations

from harness.benchmarks.scoring.verdict import JudgedRule, Metric, Rule

RULES: dict[str, Rule] = {}
JUDGED: dict[str, JudgedRule] = {}
METRICS: dict[str, Metric] = {}
