"""Scoring stored replies again: another rule, another judge, or what a judge could not say before."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from harness.benchmarks import scoring
from harness.benchmarks.base import Scoring
from harness.benchmarks.judge import Judge
from harness.runs.compose import Configs, compose_all
from harness.runs.config import JudgeConfig
from harness.runs.errors import InputError
from harness.runs.log import read_config, read_log, write_atomically
from harness.runs.progress import Display
from harness.runs.scores import Scorer, ScoreSpec, measure, read_scored
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
        cells = [file.parent for file in sorted(path.rglob("config.yaml")) if (file.parent / "config.yaml").is_file()]
        if not cells:
            raise InputError(f"{path} is not the folder of a cell, and none lies below it")
        found |= dict.fromkeys(cells)
    return list(found)


def rescore(
    folders: Sequence[Path], changes: Mapping[str, str], judge: Judge | None, config: JudgeConfig
) -> Iterator[Row]:
    """Score the cells; afterwards tables show this scoring.

    Args:
        changes: `rule`, `lenient` and `metrics` (separated by commas) that replace those of the cells.
        judge: asked where the rule needs one.
        config: its configuration.
    """
    with Display(len(folders)) as display:
        for folder in folders:
            plain = read_config(folder)
            try:
                spec = _spec(plain, changes, judge)
            except (KeyError, TypeError):
                raise InputError(f"{folder}: made by an older version; run it again with resume=fresh") from None
            records = read_log(folder)
            display.start(folder.as_posix().partition("runs/")[2] or str(folder), 0, len(records))
            scorer = Scorer(folder, spec, judge, config.concurrency, display.say)
            try:
                scorer.complete(records.values(), lambda: display.advance(None))
            finally:
                scorer.close()
            plain |= {"scoring": spec.plain()}
            write_atomically(folder / "config.yaml", yaml.safe_dump(plain, sort_keys=False))
            yield _summarised(folder, spec, plain, [line["error"] for line in scorer.scores.values() if line["error"]])


def _spec(plain: Mapping[str, Any], changes: Mapping[str, str], judge: Judge | None) -> ScoreSpec:
    spec = ScoreSpec.parse(plain["scoring"])
    names = Scoring(
        changes.get("rule", spec.scoring.rule), changes.get("lenient", spec.scoring.lenient),
        tuple(changes["metrics"].split(",")) if "metrics" in changes else spec.scoring.metrics,
    )  # fmt: skip
    try:
        scoring.check(names)
    except ValueError as error:
        raise InputError(str(error)) from None
    return replace(spec, scoring=names, judge=judge.identity if judge and names.rule in scoring.JUDGED else None)


def _summarised(folder: Path, spec: ScoreSpec, plain: Mapping[str, Any], errors: list[str]) -> Row:
    """Rewrite summary.json over all logged samples; returns the row to print."""
    records = list(read_scored(folder, spec).values())
    file = folder / "summary.json"
    old = json.loads(file.read_text()) if file.exists() else {}
    metrics = measure(records, spec.scoring.metrics)
    new = summarise(records, plain.get("keep"), plain.get("tokens")) | {"scoring": spec.stem, "metrics": metrics}
    new["ret_nominal"] = old.get("ret_nominal", new["ret_nominal"])
    write_atomically(file, json.dumps(old | new, indent=2) + "\n")
    name, headline = next(iter(metrics.items()))
    return {
        "cell": folder.as_posix().partition("runs/")[2] or str(folder), "rule": spec.scoring.rule,
        "judge": str(spec.judge["model"]) if spec.judge else "none", "metric": name,
        "value": headline["value"], "n": headline["n"], "lenient": new["lenient"], "unparsed": new["unparsed"],
        "unjudged": new["unjudged"], "note": headline["note"] or (errors[-1] if errors and new["unjudged"] else ""),
    }  # fmt: skip
