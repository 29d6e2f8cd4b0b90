"""pass@k and mean@k against all subsets of the replies, and in tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from harness.cli import main
from harness.runs.at_k import at_k, parse, pass_at, value
from harness.runs.scores import ScoreSpec, iter_scored
from harness.tables import TablesError, pivot, stats
from tests.tables.test_compared import three_runs

Write = Callable[..., Path]


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_is_the_mean_over_all_subsets(n: int) -> None:
    for right in range(n + 1):
        replies = [1.0] * right + [0.0] * (n - right)
        for k in range(1, n + 1):
            subsets = list(combinations(replies, k))
            assert pass_at(n, right, k) == pytest.approx(sum(max(s) for s in subsets) / len(subsets))
    with pytest.raises(ValueError, match=f"pass@{n + 1} needs {n + 1} replies to a sample, there are {n}"):
        pass_at(n, 0, n + 1)


def test_value() -> None:
    """Half a credit is not right, but counts in the mean; means are of the first replies."""
    assert value("pass", 1, [0.5, 1.0]) == 0.5 and value("mean", 1, [0.5, 1.0]) == 0.5
    assert value("mean", 2, [0.5, 1.0, 0.0]) == 0.75
    with pytest.raises(ValueError, match="mean@3"):
        value("mean", 3, [1.0])
    assert parse("pass@2") == ("pass", 2) and parse("pass@0") is parse("pass") is parse("accuracy") is None


def credits(folder: Path) -> dict[str, list[float]]:
    """Of every sample, by hand."""
    found: dict[str, list[float]] = {}
    for (sample, _), line in iter_scored(folder, ScoreSpec.read(folder)):
        found.setdefault(sample, []).append(line["value"])
    return found


@pytest.mark.parametrize("clusters", [1, 4])
@pytest.mark.parametrize("metric", ["pass@2", "mean@2", "pass@3"])
def test_in_a_table(metric: str, clusters: int, cell: Write, results: Path) -> None:
    """Values, intervals and differences are those of the statistics, called with one value per sample."""
    rng = np.random.default_rng(2)
    ours = three_runs(cell("fastv", [1.0] * 20 + [0.0] * 20, keep=1 / 3, clusters=clusters), rng)
    full = three_runs(cell("none", [1.0] * 30 + [0.0] * 10, hash8="12345678", clusters=clusters), rng)
    kind, k = parse(metric) or ("", 0)
    mine, theirs = (np.array([value(kind, k, row) for row in credits(folder).values()]) for folder in (ours, full))
    names = [f"c{int(sample[1:]) // clusters}" for sample in credits(ours)]
    made = pivot(results, metric=metric)
    row = made.frame.set_index("method").loc["fastv"]
    alone, pair = stats.accuracy(mine, names), stats.paired(mine, theirs, names)
    assert (row.value, row.accuracy_low, row.accuracy_high) == pytest.approx((alone.value, alone.low, alone.high))
    assert (row.difference, row.difference_low, row.p) == pytest.approx((pair.value, pair.low, pair.p))
    assert row.n == row.pairs == 40
    text = made.to_markdown()
    assert f"{100 * alone.value:.1f} [{100 * alone.low:.1f}, {100 * alone.high:.1f}]" in text


def test_samples_that_lack_a_reply_are_left_out(cell: Write, results: Path) -> None:
    folder = three_runs(cell("none", [1.0] * 8), np.random.default_rng(0))
    log = folder / "samples-main.jsonl"
    log.write_text("".join(line + "\n" for line in log.read_text().splitlines()[:-1]))
    assert pivot(results, metric="pass@1").frame.n.tolist() == [7]
    summary = at_k((line for _, line in iter_scored(folder, ScoreSpec.read(folder))), 3)
    assert summary["samples"] == 7 and set(summary) >= {"pass@1", "pass@2", "pass@3", "mean@1", "mean@3"}
    every = list(credits(folder).values())[:7]
    assert summary["pass@2"] == pytest.approx(np.mean([pass_at(3, int(sum(c)), 2) for c in every]))


def test_more_than_there_are(cell: Write, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell("none", [1.0] * 8)
    with pytest.raises(TablesError, match="at most 1"):
        pivot(results, metric="mean@2")
    assert main(["table", f"paths.results={results}", "metric=pass@2"]) == 2
    error = capsys.readouterr().err
    assert "pass@2 needs 2 replies to a sample" in error and error.count("\n") == 1
    assert main(["table", f"paths.results={results}", "metric=pass@0"]) == 2
    assert "pass@k" in capsys.readouterr().err


def test_cells_with_fewer_stand_empty(cell: Write, results: Path) -> None:
    """A greedy cell beside sampled ones."""
    cell("fastv", [1.0] * 8, keep=1 / 3)
    three_runs(cell("none", [1.0] * 8, hash8="12345678"), np.random.default_rng(0))
    frame = pivot(results, metric="pass@3").frame.set_index("method")
    assert np.isnan(frame.value["fastv"]) and frame.value["none"] == 1
    json.dumps(pivot(results, metric="pass@3").to_csv())
