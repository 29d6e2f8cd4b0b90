"""We-Math: answers, and its four-way diagnosis of problems."""

from __future__ import annotations

from harness.benchmarks.scoring.verdict import JudgedRule, Metric, Rule

RULES: dict[str, Rule] = {}
JUDGED: dict[str, JudgedRule] = {}
METRICS: dict[str, Metric] = {}
