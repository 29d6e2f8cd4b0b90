"""`vtpbench report`: one HTML file that shows the runs of a results folder, by itself and without a network."""

from harness.report.page.build import Chosen, Written, compare, report

__all__ = ["Chosen", "Written", "compare", "report"]
