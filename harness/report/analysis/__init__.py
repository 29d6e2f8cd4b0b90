"""`vtpbench analyze`: what papers show in figures, measured on stored runs."""

from harness.report.analysis.analyze import KINDS, analyze
from harness.report.analysis.kind import Ask, Finding, Kind

__all__ = ["KINDS", "Ask", "Finding", "Kind", "analyze"]
