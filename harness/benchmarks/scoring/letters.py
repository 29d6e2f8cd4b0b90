"""Multiple choice: letters read from replies, by the rules of the benchmarks and of evaluation kits."""

from __future__ import annotations

from harness.benchmarks.scoring.verdict import JudgedRule, Rule

RULES: dict[str, Rule] = {}
JUDGED: dict[str, JudgedRule] = {}
