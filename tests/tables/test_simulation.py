"""What the tests of a table say about made truths: how often they err, and how often they find what is there."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from harness.tables import stats

Pair = tuple[np.ndarray, np.ndarray]


def correlated(
    rng: np.random.Generator, joint: dict[tuple[int, int], float], clusters: int, size: int, icc: float
) -> Pair:
    """Credits of two methods: an item shows its cluster's outcome with probability sqrt(icc), else one of its own."""
    outcomes, chances = np.array(list(joint), float), list(joint.values())
    own = rng.choice(len(joint), (clusters, size), p=chances)
    shared = rng.choice(len(joint), (clusters, 1), p=chances)
    chosen = np.where(rng.random((clusters, size)) < np.sqrt(icc), shared, own).ravel()
    return outcomes[chosen, 0], outcomes[chosen, 1]


def single(rng: np.random.Generator, won: float, lost: float, n: int) -> Pair:
    return correlated(rng, {(1, 0): won, (0, 1): lost, (1, 1): 0.6 - won, (0, 0): 0.4 - lost}, n, 1, 0.0)


def icc(values: np.ndarray, size: int) -> float:
    """One-way analysis of variance."""
    groups = values.reshape(-1, size)
    between, within = size * groups.mean(1).var(ddof=1), groups.var(1, ddof=1).mean()
    return float((between - within) / (between + (size - 1) * within))


def test_null_with_clusters_is_rejected_in_at_most_6_percent() -> None:
    rng, cluster = np.random.default_rng(11), np.repeat(np.arange(100), 10)
    joint = {(1, 0): 0.1, (0, 1): 0.1, (1, 1): 0.5, (0, 0): 0.3}
    tables = [correlated(rng, joint, 100, 10, 0.5) for _ in range(1000)]
    rejected = np.mean([stats.paired(a, b, cluster).p < 0.05 for a, b in tables])
    ignored = np.mean([stats.paired(a, b, range(1000)).p < 0.05 for a, b in tables[:100]])
    seen = np.mean([icc(a - b, 10) for a, b in tables])
    print(
        f"null, 100 clusters of 10, ICC {seen:.3f}: {rejected:.1%} of 1,000 rejected; items as clusters: {ignored:.0%}"
    )
    assert seen == pytest.approx(0.5, abs=0.02)
    assert 0.03 <= rejected <= 0.06
    assert ignored > 0.2  # the design effect is 5.5: without clusters the test would be no test


def test_power_of_one_comparison_and_under_holm() -> None:
    """10 % against 5 % discordant, n = 1,000."""
    rng = np.random.default_rng(12)
    p = np.array([[stats.paired(*single(rng, 0.10, 0.05, 1000), range(1000)).p for _ in range(12)] for _ in range(50)])
    null = np.array(
        [[stats.paired(*single(rng, 0.05, 0.05, 1000), range(1000)).p for _ in range(11)] for _ in range(50)]
    )
    alone = np.mean(p < 0.05)
    all_real = np.mean([np.array(stats.holm(list(row))) < 0.05 for row in p])
    one_real = np.mean([stats.holm([row[0], *nulls])[0] < 0.05 for row, nulls in zip(p, null, strict=True)])
    false = np.mean([min(stats.holm([row[0], *nulls])[1:]) < 0.05 for row, nulls in zip(p, null, strict=True)])
    print(f"power: alone {alone:.1%} (600); Holm over 12: all real {all_real:.1%}, one real {one_real:.1%} (50), "
          f"a false one in {false:.1%}")  # fmt: skip
    assert alone >= 0.9
    assert one_real <= all_real <= alone
    needed = stats.power(0.15, 0.05, power=0.9)
    found = np.mean([stats.paired(*single(rng, 0.10, 0.05, needed), range(needed)).p < 0.05 for _ in range(400)])
    print(f"the formula's n for power 90 %: {needed}; found {found:.1%} of 400")
    assert found == pytest.approx(0.9, abs=0.05)


def test_equivalence_is_found_as_often_as_theory_allows() -> None:
    """True difference 0, n = 5,000, margin 1 point. More than about 4.6 % discordant leave less than 90 %."""
    rng, found = np.random.default_rng(13), {}
    for discordant in (0.02, 0.04, 0.05, 0.10):
        pairs = [single(rng, discordant / 2, discordant / 2, 5000) for _ in range(200)]
        results = [stats.paired(a, b, range(5000)) for a, b in pairs]
        found[discordant] = np.mean([stats.verdict(d.value, d.p, d.p_margin) == "equivalent" for d in results])
        theory = 2 * norm.cdf(0.01 / np.sqrt(discordant / 5000) - norm.isf(0.05)) - 1
        print(f"TOST, {discordant:.0%} discordant: {found[discordant]:.1%} of 200 equivalent, theory {theory:.1%}")
        assert found[discordant] == pytest.approx(theory, abs=0.08)
    assert found[0.04] >= 0.9


def test_a_difference_of_the_margin_is_rarely_called_equivalent() -> None:
    rng = np.random.default_rng(14)
    results = [stats.paired(*single(rng, 0.03, 0.02, 5000), range(5000)) for _ in range(500)]
    wrong = np.mean([stats.verdict(d.value, d.p, d.p_margin) == "equivalent" for d in results])
    print(f"TOST at a true difference of the margin: {wrong:.1%} of 500 equivalent")
    assert wrong <= 0.07


@pytest.mark.parametrize("size", [1, 5, 10])
def test_interval_of_accuracy_covers_the_truth(size: int) -> None:
    rng, cluster = np.random.default_rng(15), np.repeat(np.arange(100), size)
    joint = {(1, 0): 0.1, (0, 1): 0.1, (1, 1): 0.5, (0, 0): 0.3}
    found = [stats.accuracy(correlated(rng, joint, 100, size, 0.5)[0], cluster) for _ in range(1000)]
    covered = np.mean([e.low <= 0.6 <= e.high for e in found])
    print(f"accuracy, 100 clusters of {size}: {covered:.1%} of 1,000 intervals hold the truth ({found[0].rule})")
    assert covered == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(("runs", "spread"), [(1, 0.0), (3, 0.0), (3, 0.02), (5, 0.02)])
def test_interval_over_runs_covers_the_truth(runs: int, spread: float) -> None:
    """Runs whose accuracy varies by `spread`; both methods have the same truth."""
    rng, cluster, covered = np.random.default_rng(16), np.repeat(np.arange(100), 4), []
    for _ in range(300):
        base = rng.choice([0.2, 0.6, 0.9], (400, 1))
        ours, theirs = (
            (rng.random((400, runs)) < base + rng.normal(0, spread, (1, runs))).astype(float) for _ in range(2)
        )
        d = stats.repeated(ours, theirs, cluster)
        covered.append(d.low <= 0 <= d.high)
    print(f"{runs} runs, spread {spread:.0%}: {np.mean(covered):.1%} of 300 intervals hold the truth")
    assert np.mean(covered) >= 0.92
