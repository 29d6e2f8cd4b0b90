"""Short free answers: TextVQA, GQA."""

from __future__ import annotations

from harness.benchmarks.scoring.verdict import Rule

RULES: dict[str, Rule] = {}
