"""What earlier runs in the results folder tell of later ones."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from harness.runs.log import iter_log
from harness.runs.summary import failed, seconds, trace_length


@dataclass
class Earlier:
    """Samples of earlier runs: seconds by the device that they were made on ("" where not known), and their sizes."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    visual: list[float] = field(default_factory=list)
    text: list[float] = field(default_factory=list)
    reply: list[float] = field(default_factory=list)
    line: list[float] = field(default_factory=list)

    def add(self, records: Iterable[dict[str, Any]], device: str, line: float) -> None:
        """Samples of one folder, with the bytes of a line of its log."""
        for record in records:
            self.seconds.setdefault(device, []).append(seconds(record))
            self.visual.append(record["visual_tokens"])
            self.text.append(record["text_tokens"])
            self.reply.append(trace_length(record))
            self.line.append(line)

    def each(self, device: str | None) -> float | None:
        """Mean seconds of a sample on a device whose name has this in it; None: on any."""
        found = [s for name, all_ in self.seconds.items() if device is None or device in name for s in all_]
        return fmean(found) if found else None


def earlier_runs(results: Path) -> dict[tuple[str, ...], Earlier]:
    """By (model, benchmark, method) and by (model, benchmark)."""
    found: dict[tuple[str, ...], Earlier] = {}
    for folder in sorted((results / "runs").glob("*/*/*/*")):
        if not (every := [record for _, record in iter_log(folder)]):
            continue
        line = sum(file.stat().st_size for file in folder.glob("samples-*.jsonl")) / len(every)
        names = folder.relative_to(results / "runs").parts
        for key in (names[:3], names[:2]):
            good = [record for record in every if not failed(record)]
            found.setdefault(key, Earlier()).add(good, _device(folder), line)
    return found


def _device(folder: Path) -> str:
    """The GPU on which all samples of a cell were made; "" if that is not one, or not known."""
    try:
        made = json.loads((folder / "environment.json").read_text()).values()
        names = {name for one in made for name in one.get("gpus") or [""]}
    except (OSError, ValueError, AttributeError):
        return ""
    return str(names.pop()) if len(names) == 1 else ""
