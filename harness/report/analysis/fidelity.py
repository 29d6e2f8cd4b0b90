"""How far a method's next-token probabilities are from the full model's, along the full model's own reply."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import Tensor
from torch.nn.functional import kl_div

from harness.engine import Request
from harness.report.analysis.kind import Ask
from harness.report.analysis.live import asked, cells, load, model_names
from harness.report.analysis.stored import samples
from harness.runs.cells import Cell, budget
from harness.runs.errors import InputError

if TYPE_CHECKING:
    from harness.engine import Engine

LIMIT = 50
MEMORY = 1 << 32
"""Bytes of the full model's log-probabilities that are held at a time."""
KEEPS = "keep=1/2,1/3,2/9,1/9"
GRIDS = [
    ["pruner=none"], ["pruner=fastv,divprune,visionzip,random", KEEPS], ["pruner=fastv", "addon=dstp", KEEPS],
    ["pruner=visionpulse_10"],
]  # fmt: skip
WALK = re.compile(
    r"(?P<place>\b[a-h][1-8]\b)|= (?P<sum>\d+)|answer (?P<answer>\d+)|(?P<arrow>\b(?:up|right|down|left)\b)"
    r"|(?P<pips>\d)"
)
"""What the words of a walk's reply are."""
KEYS = ["model", "task", "method", "keep"]


def measure(ask: Ask) -> pd.DataFrame:
    """Rows of three parts: per cell ("cell"), per step of the reply ("step"), and per word and leg of walks ("word").

    `kl` in nats and `agreement` (of the most probable token) are means over `n` tokens, `kl_error` the standard error
    over samples. `accuracy` is that of the free-running replies, where such a run is stored.
    """
    tokens = pd.DataFrame([row for name in model_names(ask) for row in _of_model(ask, name)])
    tokens["accuracy"] = tokens.cell.map(_accuracies(ask)).astype(float)
    parts = []
    for part, by in (("cell", []), ("step", ["step"]), ("word", ["word", "leg"])):
        own = tokens[tokens.word != ""] if part == "word" else tokens
        mean = own.groupby([*KEYS, *by], dropna=False).agg(
            kl=("kl", "mean"), agreement=("agree", "mean"), n=("kl", "size"), accuracy=("accuracy", "first")
        )
        if part == "cell":
            of_sample = own.groupby([*KEYS, "id"], dropna=False).kl.mean()
            mean["kl_error"] = of_sample.groupby(KEYS, dropna=False).sem()
        parts.append(mean.reset_index().assign(part=part))
    return pd.concat(parts, ignore_index=True)


def _of_model(ask: Ask, name: str) -> Iterator[dict[str, Any]]:
    """A row per cell, sample and token."""
    engine, tasks = None, dict[str, list[Cell]]()
    for cell in cells(ask, name, GRIDS):
        tasks.setdefault(cell.config.benchmark.name, []).append(cell)
    for task, (full, *pruned) in tasks.items():
        engine = engine or load(ask, full)
        size = max(1, MEMORY // (4 * engine.model.dims.vocab * full.decoding.max_new_tokens))
        requests = [request for _, request in asked(full, ask.limit or LIMIT)]
        for start in range(0, len(requests), size):
            for row in _compared(engine, full, pruned, requests[start : start + size]):
                yield {"model": name, "task": task, **row}


def _compared(engine: Engine, full: Cell, pruned: list[Cell], requests: list[Request]) -> Iterator[dict[str, Any]]:
    """Rows of a few samples: the full model writes and is held, every method reads what it has written."""
    held: dict[str, list[Tensor]] = {request.id: [] for request in requests}

    def hold(request: Request, logits: Tensor) -> None:
        held[request.id].append(logits.float().log_softmax(-1))

    replies = {trace.id: trace for trace in engine.run(requests, full.pruner, full.decoding, listen=hold)}
    forced = [replace(r, forced=tuple(ids)) for r in requests if (ids := replies[r.id].token_ids)]
    walk = full.benchmark.name == "glyph_walk"
    words = {r.id: _words(engine, r.forced) if walk else [("", 0)] * len(r.forced) for r in forced}
    for cell in pruned:
        rows: dict[str, list[dict[str, Any]]] = {request.id: [] for request in forced}
        added = f"+{cell.config.addon.name}" if cell.config.addon.target else ""
        label = {"method": cell.config.pruner.name + added, "keep": budget(cell.pruner)[0], "cell": cell.name}

        def compare(request: Request, logits: Tensor, rows: dict[str, list[dict[str, Any]]] = rows) -> None:
            step = len(rows[request.id])
            before, now = held[request.id][step], logits.float().log_softmax(-1)
            rows[request.id].append({
                "kl": float(kl_div(now, before, reduction="sum", log_target=True)), "id": request.id, "step": step,
                "agree": bool(now.argmax() == before.argmax()),
            })  # fmt: skip

        for trace in engine.run(forced, cell.pruner, cell.decoding, listen=compare):
            if trace.error:
                raise InputError(f"{cell.name}: sample {trace.id} failed: {trace.error}")
            for row, (word, leg) in zip(rows[trace.id], words[trace.id], strict=True):
                yield row | label | {"word": word, "leg": leg}


def _words(engine: Engine, ids: tuple[int, ...]) -> list[tuple[str, int]]:
    """Of every token of a walk's reply, which word it is part of, and the number of the cell that is being read."""
    ends = [len(engine.model.tokenizer.decode(ids[: i + 1])) for i in range(len(ids))]
    return words(engine.model.tokenizer.decode(ids), ends)


def words(text: str, ends: list[int]) -> list[tuple[str, int]]:
    """The same from the reply's text, and the characters up to the end of each token."""
    out, found = [], [(m.start(m.lastgroup or 0), m.end(), m.lastgroup or "") for m in WALK.finditer(text)]
    for start, end in zip([0, *ends], ends, strict=False):
        inside = [kind for first, last, kind in found if first < end and last > start]
        places = sum(kind == "place" for first, _, kind in found if first < end)
        out.append((inside[0] if inside else "", max(0, places - 1)))
    return out


def _accuracies(ask: Ask) -> dict[str, float]:
    """Of stored free-running cells, by name; empty where nothing is stored."""
    try:
        rows = samples(ask)
    except InputError:
        return {}
    return {str(cell): float(mean) for cell, mean in rows.groupby("cell", observed=True).credit.mean().items()}
