"""Prompts of table rows: from templates, or from lmms-eval's tasks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import jinja2
from jinja2.sandbox import SandboxedEnvironment

from harness.benchmarks import cache
from harness.benchmarks.errors import DataError
from harness.benchmarks.rows import Row
from harness.benchmarks.sets.base import letter

Layout = Literal["first", "interleaved", "numbered"]
LMMS_SECONDS = 900
"""Time limit for lmms-eval's prompts of one task."""


@dataclass(frozen=True)
class Mark:
    """The place of a picture in a prompt."""

    column: str


@dataclass(frozen=True)
class Prompt:
    """Texts and places of pictures of the user's turn, and system texts."""

    parts: tuple[str | Mark, ...]
    system: tuple[str, ...] = ()


def lettered(options: Sequence[str]) -> str:
    """Options one a line, as "A. x"."""
    return "\n".join(f"{letter(i)}. {option}" for i, option in enumerate(options))


_ENVIRONMENT = SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
_ENVIRONMENT.filters["lettered"] = lettered


def compiled(template: str) -> jinja2.Template:
    """A template, checked. Raises ValueError."""
    try:
        return _ENVIRONMENT.from_string(template)
    except jinja2.TemplateError as error:
        raise ValueError(f"prompt is not a jinja2 template: {error}") from None


def render(template: jinja2.Template, context: Mapping[str, Any]) -> str:
    """The text for one row. Raises DataError for a name that the row lacks, or any other fault of the template."""
    try:
        return template.render(context)
    except Exception as error:  # a template can run into anything
        names = ", ".join(sorted(context))
        raise DataError(f"prompt cannot be filled in: {' '.join(str(error).split())}; there are: {names}") from None


def laid_out(text: str, columns: Sequence[str], layout: Layout) -> tuple[str | Mark, ...]:
    """Pictures of a row and its text, in order.

    "first": pictures, then text. "interleaved": each `<image k>` of the text is replaced by the k-th picture, pictures
    without one come first (VLMEvalKit, `split_MMMU`). "numbered": several pictures are introduced by "Image-1: "
    (VLMEvalKit, `InternVLChat`); the line break after each is the chat template's.
    """
    if layout == "numbered" and len(columns) > 1:
        return (*(part for k, column in enumerate(columns, 1) for part in (f"Image-{k}: ", Mark(column))), text)
    if layout != "interleaved":
        return _joined([*map(Mark, columns), text])
    parts: list[str | Mark] = []
    for k, piece in enumerate(re.split(r"<image (\d+)>", text)):
        named = [c for c in columns if c.endswith(f"_{piece}")] if k % 2 else []
        parts.append(Mark(named[0]) if named else f"<image {piece}>" if k % 2 else piece)
    rest = [Mark(column) for column in columns if Mark(column) not in parts]
    return _joined([*rest, *parts])


def _joined(parts: Sequence[str | Mark]) -> tuple[str | Mark, ...]:
    """Neighbouring texts become one, empty ones vanish."""
    out: list[str | Mark] = []
    for part in parts:
        if isinstance(part, str) and out and isinstance(out[-1], str):
            out[-1] += part
        elif part:
            out.append(part)
    return tuple(out)


def lmms(task: str, model: str, rows: Sequence[Row], pictures: Sequence[str]) -> tuple[list[Prompt], dict[str, Any]]:
    """Prompts of lmms-eval's task for rows, and the task's generation parameters; kept on disk.

    Args:
        model: the name that lmms-eval keys its prompt variants by ("default", "qwen3_vl", ...).
        pictures: names of the picture columns.

    Raises:
        DataError: lmms-eval is not installed, has no such task, or the task cannot read the rows.
    """
    try:
        version = metadata.version("lmms-eval")
    except metadata.PackageNotFoundError:
        raise DataError("prompt=lmms needs the package lmms-eval, which is not installed") from None
    header = {"task": task, "model": model, "pictures": list(pictures)}
    documents = [{k: v for k, v in row.items() if not k.startswith("_")} for row in rows]
    request = "".join(json.dumps(line, default=str) + "\n" for line in [header, *documents])
    code = Path(__file__).with_name("lmms_prompts.py").read_text(encoding="utf-8")
    first, *found = cache.cached("prompts", [version, code, request], lambda: _asked(task, request, len(documents)))
    prompts = [
        Prompt(tuple(part["text"] if "text" in part else Mark(part["picture"]) for part in p["parts"]),
               tuple(p["system"])) for p in found
    ]  # fmt: skip
    return prompts, first["generation"]


def _asked(task: str, request: str, n: int) -> list[dict[str, Any]]:
    script = Path(__file__).with_name("lmms_prompts.py")
    quiet = {"HF_HUB_OFFLINE": "1", "API_TYPE": "openai", "OPENAI_API_KEY": "none", "LOGURU_LEVEL": "WARNING"}
    with tempfile.TemporaryDirectory() as empty:  # a .env file of the working folder would be read
        try:
            done = subprocess.run(
                [sys.executable, "-P", str(script)], input=request, capture_output=True, text=True, encoding="utf-8",
                env={**os.environ, **quiet}, cwd=empty, timeout=LMMS_SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise DataError(f"lmms-eval took more than {LMMS_SECONDS} s for the prompts of {task}") from None
    replies = [json.loads(line) for line in done.stdout.splitlines()] if done.returncode == 0 else []
    if len(replies) != n + 1:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise DataError(f"lmms-eval cannot make the prompts of {task}: {replies[0]['error'] if replies else last}")
    return replies
