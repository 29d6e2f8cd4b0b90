"""Samples as the page shows them: the question, every method's reply and verdict, and what the replies could see."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pandas as pd

from harness.report.page.board import full_name, is_self_test
from harness.report.page.plain import Json, Pool, number
from harness.report.page.questions import Questions
from harness.report.page.recorded import seen_in, understood
from harness.report.page.traces import trace
from harness.runs.log import iter_log, read_config
from harness.runs.scores import ScoreSpec, iter_scored
from harness.runs.summary import Record, failed, trace_length
from harness.tables.caption import DIAGNOSTIC
from harness.tables.columns import Row, budget

HALF = 0.5
"""Credit from which a reply counts as right where methods are compared."""


def ranked(rows: Sequence[Row], samples: pd.DataFrame, recorded: Collection[str]) -> pd.DataFrame:
    """By sample id: `lost` (right with all tokens, wrong under a method) and `split` (methods disagree); those on
    record first, then those on which methods disagree most. Diagnostic methods have no say."""
    credit = samples.groupby(["id", "cell"], observed=True).credit.mean().unstack()
    full = credit.reindex(columns=[row["cell"] for row in rows if row["label"] == "none"]).mean(axis=1)
    fair = credit.reindex(columns=[row["cell"] for row in rows if row["method"] not in DIAGNOSTIC])
    low, high, variance = fair.min(axis=1), fair.max(axis=1), fair.var(axis=1, ddof=0).fillna(0)
    flags = pd.DataFrame({"lost": (full >= HALF) & (low < HALF), "split": high > low})
    order = flags.assign(first=~flags.index.isin(recorded), variance=-variance.round(6), name=flags.index)
    return flags.loc[order.sort_values(["first", "variance", "name"]).index]


Pools = tuple[Pool, Pool]
"""Pictures and layouts, which samples share."""


class Gallery:
    """Chosen samples of one section, with room for so many characters of JSON."""

    def __init__(self, runs: Path, title: str, rows: Sequence[Row], questions: Questions, pool: Pools) -> None:
        self.runs, self.title, self.rows = runs, title, rows
        self.questions, self.pictures, self.layouts = questions, *pool

    def section(self, flags: pd.DataFrame, limit: int, room: float) -> Json:
        """Of the samples in `flags` the first ones, as many as `limit` and `room` let in."""
        ids = list(flags.index[:limit])
        replies: list[dict[str, Json]] = []
        for row in self.rows:
            with understood(self.runs / row["cell"]):
                replies.append(self._replies(row, set(ids)))
        shown: list[Json] = []
        start, used = self.pictures.size + self.layouts.size, 0
        for sample, flag in flags.loc[ids].iterrows():
            entry = self._sample(str(sample), replies) | {key: bool(flag[key]) for key in ("lost", "split")}
            used += len(json.dumps(entry))
            if shown and used + self.pictures.size + self.layouts.size - start > room:
                break
            shown.append(entry)
        first = self.rows[0]
        return {
            "title": self.title, "benchmark": first["benchmark"], "selfTest": is_self_test(first["benchmark"]),
            "methods": [{"method": full_name(row), "label": row["label"], "keep": budget(row), "folder": row["cell"]}
                        for row in self.rows],
            "samples": shown, "leftOut": len(flags) - len(shown),
        }  # fmt: skip

    def _sample(self, sample: str, replies: Sequence[Mapping[str, Json]]) -> Json:
        question, pictures, missing = self.questions.ask(sample)
        own = [reply.get(sample) for reply in replies]
        about: Json = next((reply for reply in own if reply), {})
        return {
            "id": sample, "command": self._command(sample), "question": question, "answer": about.get("reference"),
            "category": about.get("category"),
            "pictures": [self.pictures.add(picture) for picture in pictures], "missing": missing,
            "replies": [reply and {k: v for k, v in reply.items() if k not in ("reference", "category")}
                        for reply in own],
        }  # fmt: skip

    def _command(self, sample: str) -> str:
        """Shows all methods side by side."""
        first, results = self.rows[0], self.runs.parent
        keys = [f"benchmark={first['benchmark']}", f"model={first['model']}"]
        keys += [] if str(results) == "results" else [f"paths.results={results}"]
        return shlex.join(["vtpbench", "report", "compare", sample, *keys])

    def _replies(self, row: Row, ids: Collection[str]) -> dict[str, Json]:
        """Of one cell the first reply to each of these samples."""
        folder = self.runs / row["cell"]
        config = read_config(folder)
        lines: dict[str, tuple[int, Record]] = {}
        for (sample, repeat), line in iter_scored(folder, ScoreSpec.read(folder, config)):
            if sample in ids and (sample not in lines or repeat < lines[sample][0]):
                lines[sample] = repeat, line
        out = {sample: _reply(line) for sample, (_, line) in lines.items()}
        for (sample, repeat), beside in iter_log(folder, "attention"):
            if sample in out and repeat == lines[sample][0] and (seen := seen_in(beside)):
                line = {**lines[sample][1], "benchmark": row["benchmark"]}
                out[sample]["trace"] = trace(line, seen, config["model"], self.layouts)
        return out


def _reply(line: Record) -> Json:
    about = {"reference": line.get("answer"), "category": line.get("category")}
    if failed(line):
        return about | {"verdict": "failed", "text": str(line.get("error"))}
    value = line["value"]
    verdict = "unjudged" if value is None else "right" if value == 1 else "wrong" if value == 0 else "partly right"
    return about | {
        "verdict": verdict, "credit": number(value), "extracted": line["extracted"], "text": line["text"],
        "length": trace_length(line), "finish": line["finish"],
    }  # fmt: skip
