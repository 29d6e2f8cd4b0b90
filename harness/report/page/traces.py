"""What a reply could see, step by step, from the record of its attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from harness.models import ModelUnavailable
from harness.models.loading import source
from harness.report.analysis.heatmaps import readings
from harness.report.analysis.rvis import THRESHOLD, rvis_events
from harness.report.analysis.stored import Looked, default_layer
from harness.report.page.plain import Json, Pool

TOP = 8
"""Most attended tokens that are marked; at most a ninth of all, as in `vtpbench analyze heatmaps`."""
WINDOW = 8
"""Tokens that are decoded together to find where one of them begins."""


def trace(line: Mapping[str, Any], record: dict[str, Any], model: Mapping[str, Any], layouts: Pool) -> Json:
    """Of one logged reply and its record (see `harness.engine.watch`).

    Returns:
        tokens: visual tokens of the prompt; changes: [step, now visible, no longer visible]; top: most attended tokens
        of each step; similarity of each step to the prefill, and the steps that are RVIS events; needed: visual tokens
        that a step reads, where that is known; ends: UTF-16 units of the reply after each step; exact: whether these
        are known or evenly spread; layout: number of the boxes in `layouts`.
    """
    reply = Looked({"task": line["benchmark"], "text": line["text"]}, np.array(record["steps"]), record)
    similarity = reply.measure("similarity")[:, default_layer(reply.steps.shape[1])]
    k = max(1, min(TOP, record["visual_tokens"] // 9))
    regions = record["needed"]
    ends, exact = _ends(line["token_ids"], line["text"], model)
    return {
        "tokens": record["visual_tokens"],
        "changes": changes(record["shown"]),
        "top": [[token for token, weight in zip(*step, strict=True) if weight > 0][:k] for step in record["top"]],
        "similarity": [round(value, 3) for value in similarity.tolist()],
        "threshold": THRESHOLD,
        "events": [1 + int(step) for step in rvis_events(similarity[1:])],
        "needed": {step: regions[number] for step, (number, _) in (readings(reply) or {}).items()},
        "ends": ends, "exact": exact,
        "layout": layouts.add([_box(box) for box in record["boxes"]]),
    }  # fmt: skip


def changes(shown: Sequence[tuple[int, Sequence[int]]]) -> list[list[Any]]:
    """[step, tokens that appear, tokens that go] from [step, visible tokens]."""
    out: list[list[Any]] = []
    before: set[int] = set()
    for step, columns in shown:
        now = set(columns)
        out.append([step, sorted(now - before), sorted(before - now)])
        before = now
    return out


def _box(box: Sequence[float] | None) -> list[int] | None:
    """Picture; top, left, bottom, right in ten-thousandths of it."""
    return None if box is None else [int(box[0]), *(round(10_000 * x) for x in box[1:])]


def _ends(ids: Sequence[int], text: str, model: Mapping[str, Any]) -> tuple[list[int], bool]:
    """UTF-16 units of the reply after each of its tokens, and whether a tokenizer told them."""
    whole, known = _units(text), _tokenizer(model["path"], model["revision"])
    if known is None:
        return [round(whole * (t + 1) / len(ids)) for t in range(len(ids))], False
    windows = [list(ids[max(0, t + 1 - WINDOW) : t + 1]) for t in range(len(ids))]
    texts = known.batch_decode(windows + [window[:-1] for window in windows], skip_special_tokens=True)
    sizes = [_units(with_it) - _units(without) for with_it, without in zip(texts, texts[len(ids) :], strict=False)]
    return [min(whole, max(0, int(end))) for end in np.cumsum(sizes)], True


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


@cache
def _tokenizer(path: str, revision: str | None) -> Any:
    """Of a model, if its files are here."""
    from transformers import AutoTokenizer  # not before harness.compat, which harness.models brings

    try:
        return AutoTokenizer.from_pretrained(
            source(path), revision=revision, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, ModelUnavailable):
        return None
