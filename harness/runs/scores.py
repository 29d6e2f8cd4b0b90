"""Verdicts beside the sample log, `scores/<rule>-<judge>-<hash8>-<writer>.jsonl`: scoring never generates again."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.benchmarks import scoring
from harness.benchmarks.base import Item, Scoring
from harness.benchmarks.judge import Judge, Recorder
from harness.benchmarks.scoring.thinking import Cut, answer_part
from harness.benchmarks.scoring.verdict import JudgeUnavailable, Verdict, unjudged
from harness.runs.log import Key, Log, digest, read_config, read_lines, read_log
from harness.runs.summary import Record, failed

FOLDER = "scores"
VERDICT = tuple(f.name for f in dataclasses.fields(Verdict))


@dataclass(frozen=True)
class ScoreSpec:
    """How the replies of a cell are scored; kept in its config.yaml under `scoring`.

    Attributes:
        scoring: rules and metrics.
        thinking: whether the model thinks before it answers.
        cut: how thoughts are told from the answer.
        judge: what tells the judge from others; None without one, or where the rule needs none.
    """

    scoring: Scoring
    thinking: bool
    cut: Cut
    judge: Mapping[str, Any] | None = None

    @property
    def stem(self) -> str:
        """Name of its files."""
        parts = [self.scoring.rule, self.scoring.lenient, self.thinking, self.cut, self.judge, scoring.SCORING_VERSION]
        judge = re.sub(r"[^\w.]+", "_", str(self.judge["model"])) if self.judge else "none"
        return f"{self.scoring.rule}-{judge}-{digest(parts)[:8]}"

    def plain(self) -> dict[str, Any]:
        """As config.yaml holds it."""
        names = dataclasses.asdict(self.scoring) | {"metrics": list(self.scoring.metrics)}
        return names | {"thinking": self.thinking, "cut": self.cut, "judge": self.judge, "id": self.stem}

    @classmethod
    def parse(cls, plain: Mapping[str, Any]) -> ScoreSpec:
        """From config.yaml."""
        names = Scoring(plain["rule"], plain["lenient"], tuple(plain["metrics"]))
        return cls(names, plain["thinking"], plain["cut"], plain["judge"])


def item_of(record: Record) -> Item:
    """The item of a logged sample, as far as rules need it."""
    return Item(record["id"], (), record["answer"], record["cluster"], record["category"], meta=record["meta"])


def read_scores(folder: Path, stem: str) -> dict[Key, dict[str, Any]]:
    """Lines of one scoring by sample; a later line replaces one that had no verdict."""
    found: dict[Key, dict[str, Any]] = {}
    for line in read_lines(folder / FOLDER, stem):
        key = (line["id"], line["repeat"])
        if key not in found or found[key]["value"] is None:
            found[key] = line
    return found


def read_scored(folder: Path, spec: ScoreSpec | None) -> dict[Key, dict[str, Any]]:
    """The sample log with what the scoring says: the fields of a verdict and `lenient`; None where there is no verdict.

    Args:
        spec: None reads it from config.yaml.
    """
    spec = spec or ScoreSpec.parse(read_config(folder)["scoring"])
    scores = read_scores(folder, spec.stem)
    return {
        key: record | {name: scores.get(key, {}).get(name) for name in (*VERDICT, "lenient")}
        for key, record in read_log(folder).items()
    }


class Scorer:
    """Scores the samples of one cell and logs the verdicts."""

    def __init__(
        self, folder: Path, spec: ScoreSpec, judge: Judge | None, threads: int, say: Callable[[str], None]
    ) -> None:
        (folder / FOLDER).mkdir(exist_ok=True)
        self.spec, self._judge, self._threads = spec, judge, threads if judge else 1
        self._log = Log(folder / FOLDER, spec.stem, say)
        self.scores = read_scores(folder, spec.stem)

    def add(self, record: Record) -> dict[str, Any] | None:
        """Score a sample at once if that takes no judge; returns its line, if it has one."""
        key = (record["id"], record["repeat"])
        if not failed(record) and key not in self.scores and not self._needs_judge:
            self._keep(score_line(record, self.spec, None))
        return self.scores.get(key)

    def complete(self, records: Iterable[Record], advance: Callable[[], None] = lambda: None) -> None:
        """Score all samples that have no verdict yet."""
        missing = [r for r in records if not failed(r) and self._missing((r["id"], r["repeat"]))]
        with ThreadPoolExecutor(self._threads) as pool:
            for line in pool.map(lambda record: score_line(record, self.spec, self._judge), missing):
                self._keep(line)
                advance()

    def close(self) -> None:
        """Let go of the file."""
        self._log.close()

    @property
    def _needs_judge(self) -> bool:
        return self.spec.scoring.rule in scoring.JUDGED

    def _missing(self, key: Key) -> bool:
        line = self.scores.get(key)
        return line is None or (line["value"] is None and self._judge is not None)

    def _keep(self, line: dict[str, Any]) -> None:
        self._log.append(line)
        self.scores[line["id"], line["repeat"]] = line


def score_line(record: Record, spec: ScoreSpec, judge: Judge | None) -> dict[str, Any]:
    """The line of one sample: the official verdict, the lenient one's credit, and what the judge said."""
    item, names = item_of(record), spec.scoring
    answer = answer_part(record["text"], spec.thinking, spec.cut)
    line: dict[str, Any] = {"id": record["id"], "repeat": record["repeat"]}
    if answer is None:
        verdict = Verdict(False, 0.0, None, names.rule, unparsed=True)
        return line | dataclasses.asdict(verdict) | {"lenient": 0.0, "judge": [], "error": None}
    ask = Recorder(judge) if judge else None
    try:
        verdict, error = scoring.score(names.rule, item, answer, ask), None
    except JudgeUnavailable as unavailable:
        verdict, error = unjudged(names.rule), str(unavailable)
    lenient = scoring.score(names.lenient, item, answer).value
    return line | dataclasses.asdict(verdict) | {
        "lenient": lenient, "judge": ask.exchanges if ask else [], "error": error,
    }  # fmt: skip


def measure(records: Iterable[Record], metrics: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Metrics over records of `read_scored` that did not fail; several replies per sample are averaged."""
    repeats: dict[int, list[scoring.Scored]] = {}
    for record in records:
        if not failed(record):
            verdict = Verdict(**{name: record[name] for name in VERDICT})
            repeats.setdefault(record["repeat"], []).append(scoring.Scored(item_of(record), verdict))
    return {name: _mean([scoring.METRICS[name](samples) for samples in repeats.values()]) for name in metrics}


def _mean(measures: list[scoring.Measure]) -> dict[str, Any]:
    values = [m.value for m in measures if m.value is not None]
    notes = list(dict.fromkeys(m.note for m in measures if m.note))
    return {
        "value": sum(values) / len(values) if values else None,
        "n": max((m.n for m in measures), default=0), "note": "; ".join(notes),
    }  # fmt: skip
