"""A results folder whose texts try to run as scripts."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from harness.cli import main

ATTACK = "<img src=x onerror=hacked()></script><script>hacked()</script>"


def poison(results: Path) -> str:
    """Puts ATTACK into a reply, a reference, a category, an id and the model's name; returns the id."""
    first = next(results.glob("runs/*/glyph_walk/none/*/attention-*.jsonl"))
    sample = json.loads(first.read_text().partition("\n")[0])["id"]
    for file in results.glob("runs/*/glyph_walk/*/*/*.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line in lines:
            if line["id"] == sample:
                line |= {"id": ATTACK, "text": ATTACK, "category": ATTACK, "answer": ATTACK}
        file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    for file in results.glob("runs/*/glyph_walk/*/*/config.yaml"):
        config = yaml.safe_load(file.read_text())
        config["model"]["name"] = ATTACK
        file.write_text(yaml.safe_dump(config))
    assert main(["score", str(results / "runs")]) == 0
    return ATTACK
