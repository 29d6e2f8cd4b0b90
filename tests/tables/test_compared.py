"""Comparisons of cells against the statistics called by hand on what the logs hold."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.benchmarks.base import Scoring
from harness.runs.scores import ScoreSpec, iter_scored
from harness.tables import leaderboard, pivot, stats

Write = Callable[..., Path]
Lines = list[dict[str, Any]]
F1 = "pope.llava_mean_f1"
POPE = ScoreSpec(Scoring("pope.llava", "yesno.lenient", (F1,)), False, "cut")
RIGHT = [1.0] * 30 + [0.0] * 10
OTHER = [0.0] * 6 + [1.0] * 28 + [0.0] * 6


def rewrite(file: Path, change: Callable[[dict[str, Any]], Lines]) -> None:
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(new) + "\n" for line in lines for new in change(line)))


def yes_no(folder: Path) -> Path:
    """Turn the made lines of a cell into questions with yes (two of three) and no."""

    def label(i: str) -> str:
        return "no" if int(i[1:]) % 3 == 0 else "yes"

    def said(line: dict[str, Any]) -> Lines:
        right, wrong = label(line["id"]), "no" if label(line["id"]) == "yes" else "yes"
        return [line | {"extracted": right if line["value"] else wrong, "unparsed": False}]

    rewrite(folder / "samples-main.jsonl", lambda line: [line | {"answer": label(line["id"]), "category": "random"}])
    rewrite(next(folder.glob("scores/*.jsonl")), said)
    return folder


def three_runs(folder: Path, rng: np.random.Generator) -> Path:
    """Give every sample two more repeats, some of another credit."""
    scores = next(folder.glob("scores/*.jsonl"))
    by_id = {json.loads(line)["id"]: json.loads(line) for line in scores.read_text().splitlines()}
    verdicts: Lines = []

    def repeat(line: dict[str, Any]) -> Lines:
        base = by_id[line["id"]]
        verdicts.append(base)
        verdicts.extend(base | {"repeat": r, "value": float(rng.random() < 0.6)} for r in (1, 2))
        return [line | {"repeat": r} for r in range(3)]

    rewrite(folder / "samples-main.jsonl", repeat)
    scores.write_text("".join(json.dumps(line) + "\n" for line in verdicts))
    return folder


def records(folder: Path) -> Lines:
    return [record for _, record in iter_scored(folder, ScoreSpec.read(folder))]


def credits(folder: Path) -> pd.DataFrame:
    return pd.DataFrame(records(folder)).pivot(index="id", columns="repeat", values="value").dropna()


def row(frame: pd.DataFrame) -> pd.Series:
    (found,) = [row for _, row in frame.iterrows() if row.method != "none"]
    return found


def test_a_headline_that_is_no_mean_has_its_own_interval_and_test(results: Path, cell: Write) -> None:
    full = yes_no(cell("none", RIGHT, benchmark="pope", spec=POPE, clusters=2))
    ours = yes_no(cell("fastv", OTHER, keep=0.5, benchmark="pope", spec=POPE, clusters=2))
    board = leaderboard(results)
    found, wanted = row(board.frame), stats.metric(records(ours), F1)
    assert found.metric_value == wanted.value != found.accuracy
    assert (found.metric_value_low, found.metric_value_high) == (wanted.low, wanted.high)
    assert f"{100 * wanted.value:.1f} [{100 * wanted.low:.1f}, {100 * wanted.high:.1f}]" in board.to_markdown()
    table = pivot(results, metric="headline")
    said, paired = row(table.frame), stats.metric_paired(records(ours), records(full), F1)
    assert (said.difference, said.p, said.difference_low) == (paired.value, paired.p, paired.low)
    assert said.test == "cluster permutation of the metric" and found.test == "sign-flip permutation"
    assert f"{100 * wanted.value:.1f} ({100 * paired.value:+.1f} [" in table.to_markdown()
    assert row(pivot(results).frame).difference == found.difference == pytest.approx(-2 / 40)


def test_the_copy_of_the_logs_tells_the_same_headline(results: Path, cell: Write) -> None:
    yes_no(cell("none", RIGHT, benchmark="pope", spec=POPE))
    yes_no(cell("fastv", OTHER, keep=0.5, benchmark="pope", spec=POPE))
    for file in filter(Path.is_file, results.rglob("*")):
        os.utime(file, (0, 0))  # a copy is made only of what has been left alone for a while
    first = row(pivot(results, metric="headline").frame)
    assert len(list((results / "cache").rglob("*.arrow"))) == 2
    second = row(pivot(results, metric="headline").frame)
    assert (first.p, first.metric_value_low) == (second.p, second.metric_value_low)


def test_runs_of_a_cell_are_drawn_with_its_samples(results: Path, cell: Write) -> None:
    rng = np.random.default_rng(0)
    full = three_runs(cell("none", RIGHT, clusters=2), rng)
    ours = three_runs(cell("fastv", OTHER, keep=0.5, clusters=2), rng)
    rewrite(ours / "samples-main.jsonl", lambda line: [] if (line["id"], line["repeat"]) == ("s7", 2) else [line])
    found = row(leaderboard(results).frame)
    assert (found.test, found.n, found.pairs) == ("clusters and runs", 119, 117)  # s7 lacks a repeat
    common = credits(ours).index
    assert len(common) == 39 and "s7" not in common
    ids = list(dict.fromkeys(line["id"] for line in records(ours) if line["id"] in common))
    cluster = [int(i[1:]) // 2 for i in ids]
    wanted = stats.repeated(credits(ours).loc[ids].to_numpy(), credits(full).loc[ids].to_numpy(), cluster)
    assert (found.difference, found.p) == (pytest.approx(wanted.value), wanted.p)
    assert (found.difference_low, found.difference_high) == pytest.approx((wanted.low, wanted.high))


def test_a_single_run_is_compared_with_all_runs_of_another(results: Path, cell: Write) -> None:
    three_runs(cell("none", RIGHT), np.random.default_rng(1))
    cell("fastv", OTHER, keep=0.5)
    found = row(leaderboard(results).frame)
    assert (found.n, found.pairs, found.test) == (40, 40, "clusters and runs")


def test_the_caption_says_how_many_samples_the_margin_takes(results: Path, cell: Write) -> None:
    cell("none", RIGHT)
    cell("fastv", OTHER, keep=0.5)
    cell("stride", OTHER, keep=0.25)
    board = leaderboard(results)
    discordant = float(np.mean(np.not_equal(RIGHT, OTHER)))
    delta = np.subtract(OTHER, RIGHT)
    effect = stats.design_effect(delta, list(range(len(delta))))
    wanted = stats.power(discordant, 0.01, tests=2, design=effect)
    assert list(board.frame.needed.dropna()) == [wanted, wanted]
    (said,) = [note for note in board.notes if "80 % power" in note]
    assert f"1 point with 80 % power takes {wanted:,} samples" in said
    assert said in pivot(results).notes


def test_cells_that_never_differ_need_no_number(results: Path, cell: Write) -> None:
    cell("none", RIGHT)
    cell("fastv", RIGHT, keep=0.5)
    board = leaderboard(results)
    assert board.frame.needed.isna().all() and not any("power" in note for note in board.notes)


def test_samples_of_several_versions_are_said(results: Path, cell: Write) -> None:
    folder = cell("none", RIGHT)
    cell("fastv", OTHER, keep=0.5)
    assert not any("more than one version" in note for note in leaderboard(results).notes)
    rewrite(folder / "samples-main.jsonl", lambda line: [line | {"code": "a" if line["id"] < "s2" else "b"}])
    for table in (leaderboard(results), pivot(results)):
        (said,) = [note for note in table.notes if "more than one version" in note]
        assert "glyph_walk/none/greedy-0a1b2c3d" in said and "fastv" not in said
