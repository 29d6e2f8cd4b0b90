"""Scoring stored replies again: another rule, another judge, or what a judge could not say before."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from harness.benchmarks import scoring
from harness.benchmarks.base import Scoring
from harness.benchmarks.judge import Judge
from harness.runs.at_k import at_k
from harness.runs.compose import Configs, compose_all
from harness.runs.config import JudgeConfig
from harness.runs.errors import InputError
from harness.runs.log import read_config, read_log, write_atomically
from harness.runs.overview import read_summary
from harness.runs.progress import Display
from harness.runs.scores import Scorer, ScoreSpec, item_of, measure, read_scored
from harness.runs.summary import summarise
from harness.runs.typed import build

Row = dict[str, Any]
CHANGES = ("rule", "lenient", "metrics")


def judge_config(overrides: Sequence[str], configs: Configs) -> JudgeConfig:
    """The judge that overrides such as `judge=openai_compatible judge.model=...` describe. Raises InputError."""
    found = compose_all(overrides, configs)
    if len(found) != 1:
        raise InputError("one judge at a time")
    return build(JudgeConfig, {"name": found[0].choices["judge"], **found[0].values["judge"]}, "judge")


def cell_folders(paths: Sequence[str]) -> list[Path]:
    """The cell folders that paths name: each itself, or all below it. Raises InputError."""
    found: dict[Path, None] = {}
    for text in paths:
        path = Path(text)
        cells = [file.parent for file in sorted(path.rglob("config.yaml")) if any(file.parent.glob("samples-*.jsonl"))]
        if not cells:
            raise InputError(f"{path} is not the folder of a cell, and none lies below it")
        found |= dict.fromkeys(cells)
    return list(found)


def results_of(folder: Path) -> Path:
    """The results folder of a cell."""
    parents = folder.resolve().parents
    return parents[min(4, len(parents) - 1)]


def rescore(
    folders: Sequence[Path], changes: Mapping[str, str], judge: Judge | None, threads: int, *, keep_judge: bool
) -> Iterator[Row]:
    """Score the cells; afterwards tables show this scoring.

    Args:
        changes: `rule`, `lenient` and `metrics` (separated by commas) that replace those of the cells.
        judge: asked where the rule needs one, by so many `threads`.
        keep_judge: without a judge, keep the verdicts of the one before; else the official code says what holds then.
    """
    with Display([_name(folder) for folder in folders]) as display:
        for folder in folders:
            plain, records = read_config(folder), read_log(folder)
            spec = _spec(ScoreSpec.read(folder, plain), changes, judge, keep_judge)
            try:
                scoring.check(spec.scoring)
                for record in list(records.values())[:1]:
                    scoring.try_on(spec.scoring, item_of(record))
            except ValueError as error:
                raise InputError(f"{_name(folder)}: {error}") from None
            display.start(name := _name(folder), 0, len(records))
            scorer = Scorer(folder, spec, judge, threads, display.say)
            try:
                scorer.complete(records.values(), partial(display.advance, name, None))
            finally:
                scorer.close()
                display.end(name)
            yield _summarised(folder, spec, plain, [line["error"] for line in scorer.scores.values() if line["error"]])


def _name(folder: Path) -> str:
    return folder.as_posix().partition("runs/")[2] or str(folder)


def _spec(spec: ScoreSpec, changes: Mapping[str, str], judge: Judge | None, keep_judge: bool) -> ScoreSpec:
    names = Scoring(
        changes.get("rule", spec.scoring.rule), changes.get("lenient", spec.scoring.lenient),
        tuple(changes["metrics"].split(",")) if "metrics" in changes else spec.scoring.metrics,
    )  # fmt: skip
    known = judge.identity if judge else spec.judge if keep_judge and names.rule == spec.scoring.rule else None
    return replace(spec, scoring=names, judge=known if names.rule in scoring.JUDGED else None, id=None)


def _summarised(folder: Path, spec: ScoreSpec, plain: dict[str, Any], errors: list[str]) -> Row:
    """Rewrite config.yaml and summary.json, over all logged samples; returns the row to print."""
    records, file = list(read_scored(folder, spec).values()), folder / "summary.json"
    metrics = measure(records, spec.scoring.metrics)
    old = read_summary(file)
    new = summarise(records, plain.get("keep"), plain.get("tokens")) | {"scoring": spec.stem, "metrics": metrics}
    new["ret_nominal"] = old.get("ret_nominal", new["ret_nominal"])
    new["selected"] = max(old.get("selected", 0), len(records))
    if "repeated" in old:
        new["repeated"] = at_k(records, old["repeated"]["replies"])
    new["complete"], new["failure_rate"] = new["selected"] == len(records), new["failures"] / max(1, len(records))
    before = plain["scoring"]
    changed = [f"benchmark.{key}" for key in CHANGES if before[key] != spec.plain()[key]]
    plain["protocol"]["changed"] = list(dict.fromkeys([*plain["protocol"]["changed"], *changed]))
    plain["scoring"] = spec.plain()
    write_atomically(folder / "config.yaml", yaml.safe_dump(plain, sort_keys=False))
    write_atomically(file, json.dumps(old | new, indent=2) + "\n")
    name, headline = next(iter(metrics.items()))
    notes = [headline["note"], *(errors[-1:] if new["unjudged"] else ())]
    return {
        "cell": _name(folder), "rule": spec.scoring.rule,
        "judge": str(spec.judge["model"]) if spec.judge else "none", "metric": name,
        "value": headline["value"], "n": headline["n"], "lenient": new["lenient"], "unparsed": new["unparsed"],
        "unjudged": new["unjudged"], "note": "; ".join(filter(None, notes)),
    }  # fmt: skip
