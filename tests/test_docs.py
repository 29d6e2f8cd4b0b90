"""docs/methods.md is what the classes say now."""

import runpy
from pathlib import Path

from harness.runs.compose import Configs
from harness.runs.methods import methods

ROOT = Path(__file__).parents[1]


def test_methods_page_is_up_to_date() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "methods_page.py"))["page"](methods(Configs.find([])))
    assert made == (ROOT / "docs" / "methods.md").read_text(encoding="utf-8"), "python scripts/methods_page.py"
