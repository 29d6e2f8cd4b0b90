"""Metrics over clusters against what scoring gives for the drawn samples, and against the statistics of means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from harness.benchmarks.scoring import METRICS, Scored, Verdict
from harness.runs.scores import item_of, measure
from harness.tables import TablesError, stats
from harness.tables.stats.parts import find_parts, ratio

Records = list[dict[str, Any]]
CLUSTERS = 24


def line(i: str, cluster: str, right: bool, said: str | None = "7", **more: Any) -> dict[str, Any]:
    verdict = {"correct": right, "value": float(right), "extracted": said, "rule": "made", "unparsed": said is None}
    return {"id": i, "repeat": 0, "finish": "stop", "answer": "7", "cluster": cluster, "category": "",
            "meta": {}, **verdict, **more}  # fmt: skip


def pope(rng: np.random.Generator) -> Records:
    lines = []
    for c in range(CLUSTERS):
        hard = rng.random() / 2
        for i in range(6):
            label = ("yes", "no")[i % 2]
            said = str(rng.choice(["yes", "no"])) if rng.random() < hard else label
            read = None if rng.random() < 0.05 else said
            more = {"answer": label, "category": ("adversarial", "popular", "random")[i // 2]}
            lines.append(line(f"{c}-{i}", f"c{c}", read == label, read, **more))
    return lines


def wemath(rng: np.random.Generator) -> Records:
    lines = []
    for c in range(CLUSTERS):
        steps = 2 + c % 2
        for key in (*(f"{steps}steps_{s + 1}" for s in range(steps)), f"{steps}steps_multi"):
            lines.append(line(f"{c}-{key}", f"c{c}", bool(rng.random() < 0.5), meta={"key": key}))
    return lines[:-1]  # the last problem is incomplete


def circular(rng: np.random.Generator) -> Records:
    return [
        line(f"{c}-{turn}", f"c{c}", bool(rng.random() < 0.85), meta={"index": c + turn * 1_000_000, "group_size": 4})
        for c in range(CLUSTERS)
        for turn in range(4)
    ]


def dynamath(rng: np.random.Generator) -> Records:
    return [line(f"{c}-{v}", f"c{c}", bool(rng.random() < 0.9)) for c in range(CLUSTERS) for v in range(5)][:-2]


def mme(rng: np.random.Generator) -> Records:
    return [
        line(f"{c}-{i}", f"c{c}", bool(rng.random() < 0.7), category=("count", "OCR", "code_reasoning")[c % 3])
        for c in range(3 * CLUSTERS)
        for i in range(2)
    ]


def figures(rng: np.random.Generator) -> Records:
    return [
        line(f"{c}-{i}", f"c{c}", bool(rng.random() < 0.8),
             meta={"figure": f"{i // 2}", "question_number": f"{i % 2}", "group_size": 4})
        for c in range(CLUSTERS) for i in range(4)
    ]  # fmt: skip


MADE: dict[str, Callable[[np.random.Generator], Records]] = {
    **{name: pope for name in METRICS if name.startswith("pope")}, "macro": pope, "mean": pope,
    **{name: wemath for name in METRICS if name.startswith("wemath")},
    **{name: mme for name in METRICS if name.startswith("mme.")},
    **{name: figures for name in METRICS if name.startswith("hallusionbench.") and name != "hallusionbench.overall"},
    "mmbench.circular": circular, "dynamath.worst": dynamath, "dynamath.average": dynamath,
}  # fmt: skip


def groups(lines: Records) -> list[list[Scored]]:
    keys = ("correct", "value", "extracted", "rule", "unparsed")
    by: dict[str, list[Scored]] = {}
    for x in lines:
        by.setdefault(x["cluster"], []).append(Scored(item_of(x), Verdict(**{key: x[key] for key in keys})))
    return list(by.values())


@pytest.mark.parametrize("name", MADE)
def test_sums_give_what_scoring_gives_for_the_drawn_samples(name: str) -> None:
    """Every metric takes the fast way, and each of its draws is the metric of the drawn samples."""
    rng = np.random.default_rng(3)
    made = groups(MADE[name](rng))
    parts = find_parts(name, [made])
    assert parts is not None
    for _ in range(40):
        chosen = rng.integers(0, len(made), len(made))
        expected = METRICS[name]([sample for i in chosen for sample in made[i]]).value
        assert ratio(parts[chosen].sum(0, keepdims=True))[0] == pytest.approx(expected)


@pytest.mark.parametrize("name", MADE)
def test_interval_is_the_bootstrap_of_the_metric(name: str) -> None:
    lines = MADE[name](np.random.default_rng(4))
    found = stats.metric(lines, name)
    assert found.value == pytest.approx(measure(lines, [name])[name]["value"])
    made, rng = groups(lines), np.random.default_rng(5)
    draws = [
        METRICS[name]([s for i in rng.integers(0, len(made), len(made)) for s in made[i]]).value for _ in range(1500)
    ]
    low, high = np.nanquantile(np.array(draws, float), [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02 * max(1.0, found.value))


def test_an_unknown_form_is_computed_anew_for_each_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same interval, from fewer draws, for a metric whose sums nobody knows."""
    lines = pope(np.random.default_rng(6))
    fast = stats.metric(lines, "pope.vlmevalkit")
    monkeypatch.setitem(METRICS, "new.f1", METRICS["pope.vlmevalkit"])
    slow = stats.metric(lines, "new.f1")
    assert find_parts("new.f1", [groups(lines)]) is None
    assert slow.value == pytest.approx(fast.value)
    assert (slow.low, slow.high) == pytest.approx((fast.low, fast.high), abs=0.02)


def test_a_mean_has_the_interval_and_the_test_of_means() -> None:
    ours, theirs = (pope(np.random.default_rng(seed)) for seed in (7, 8))
    credit, other = (np.array([x["value"] for x in lines]) for lines in (ours, theirs))
    cluster = [x["cluster"] for x in ours]
    alone, known = stats.metric(ours, "mean"), stats.accuracy(credit, cluster)
    assert (alone.value, alone.low, alone.high) == pytest.approx((known.value, known.low, known.high), abs=0.006)
    there, expected = stats.metric_paired(ours, theirs, "mean"), stats.paired(credit, other, cluster)
    assert there.value == pytest.approx(expected.value)
    assert there.p == pytest.approx(expected.p, abs=0.02)
    assert (there.low, there.high) == pytest.approx((expected.low, expected.high), abs=0.012)
    assert there.p_margin == pytest.approx(expected.p_margin, abs=0.03)


@pytest.mark.parametrize("name", ["pope.llava_mean_f1", "wemath.strict", "mmbench.circular", "dynamath.worst"])
def test_a_difference_turns_with_its_sign(name: str) -> None:
    ours, theirs = (MADE[name](np.random.default_rng(seed)) for seed in (1, 2))
    there, back = stats.metric_paired(ours, theirs, name), stats.metric_paired(theirs[::-1], ours, name)
    assert there.value == pytest.approx(-back.value)
    assert there.p == pytest.approx(back.p, abs=0.03)
    assert there.low <= there.value <= there.high
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=0.03)
    same = stats.metric_paired(ours, ours, name)
    assert (same.value, same.p) == (0.0, 1.0)
    assert same.p_margin > 0.05  # 24 clusters that agree prove nothing yet


def test_p_is_small_where_clusters_all_speak_for_one() -> None:
    ours = pope(np.random.default_rng(1))
    worse = [x | {"extracted": "no" if i % 3 else x["extracted"]} for i, x in enumerate(ours)]
    assert stats.metric_paired(ours, worse, "pope.vlmevalkit").p < 0.001


def test_repeats_are_averaged_and_drawn_together() -> None:
    ours = pope(np.random.default_rng(9))
    twice = [*ours, *(x | {"repeat": 1} for x in pope(np.random.default_rng(10)))]
    found = stats.metric(twice, "pope.vlmevalkit")
    assert found.value == pytest.approx(measure(twice, ["pope.vlmevalkit"])["pope.vlmevalkit"]["value"])
    copy = [*ours, *(x | {"repeat": 1} for x in ours)]
    assert stats.metric(copy, "pope.vlmevalkit") == stats.metric(ours, "pope.vlmevalkit")


def test_all_right_still_has_an_interval() -> None:
    lines = [line(f"{i}", f"c{i // 2}", True) for i in range(40)]
    assert stats.metric(lines, "mean") == stats.accuracy(np.ones(40), [i // 2 for i in range(40)])


def test_what_has_no_value_is_refused() -> None:
    lines = pope(np.random.default_rng(1))
    with pytest.raises(TablesError, match="unknown metric 'f2'"):
        stats.metric(lines, "f2")
    with pytest.raises(TablesError, match="1 of 144 samples are unjudged"):
        stats.metric([lines[0] | {"value": None}, *lines[1:]], "mean")
    with pytest.raises(TablesError, match="no finished samples"):
        stats.metric([lines[0] | {"finish": "error"}], "mean")
    with pytest.raises(TablesError, match="no sample in common"):
        stats.metric_paired(lines[:6], lines[6:], "mean")
    with pytest.raises(TablesError, match="no samples to compute mmbench"):
        stats.metric(circular(np.random.default_rng(1))[:1], "mmbench.circular")
