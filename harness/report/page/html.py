"""Templates filled: one file with style, scripts and data in it, which asks no network."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from harness.report.page.plain import Json

TEMPLATES = Path(__file__).with_name("templates")


def render(template: str, scripts: Sequence[str], data: Json, *, plots: bool = False, **values: object) -> str:
    """A page; `data` is what its scripts read, `values` what the template names."""
    texts = [(TEMPLATES / name).read_text(encoding="utf-8") for name in scripts]
    if plots:
        from plotly.offline import get_plotlyjs

        texts = [get_plotlyjs(), *texts]
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    page: str = environment.get_template(template).render(
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")), scripts=[Markup(text) for text in texts],
        policy=policy(texts), data=Markup(json.dumps(data, allow_nan=False).replace("<", "\\u003c")), **values,
    )  # fmt: skip
    return page.encode("utf-8", "backslashreplace").decode()  # halves of characters


def policy(scripts: Sequence[str]) -> str:
    """A content security policy under which these scripts run, no other ones, and nothing is fetched."""
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:"
