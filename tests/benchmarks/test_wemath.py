"""We-Math: letters, and the diagnosis of problems, against lmms-eval's on complete tables and by hand on others."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from harness.benchmarks.base import Item
from harness.benchmarks.scoring import METRICS, Scored, Verdict, score
from harness.benchmarks.scoring.verdict import settle
from harness.benchmarks.scoring.wemath import diagnose

ROOT = Path(__file__).parents[2]
REALDATA = Path(os.environ.get("REALDATA_DIR") or ROOT.parent / "shared" / "realdata")
FILES = sorted((REALDATA / "wemath").glob("*.parquet"))
OPTIONS = ["45°", "60°", "72°", "90°", "No correct answer"]
NAMES = ("strict", "loose", "ik", "ig", "cm", "rm_strict", "rm_loose")

Table = dict[str, tuple[list[bool], bool]]
"""Whether the steps and the whole of each problem are right."""


def samples(table: Table) -> list[Scored]:
    made = []
    for problem, (steps, whole) in table.items():
        kind = f"{len(steps)}steps"
        for key, right in zip([*range(1, len(steps) + 1), "multi"], [*steps, whole], strict=True):
            item = Item(f"{problem}/{key}", (), "A", problem, meta={"ID": problem, "key": f"{kind}_{key}"})
            made.append(Scored(item, settle("wemath.official", "A", right)))
    return made


def full(seed: int, chance: float) -> Table:
    """360 problems of two steps and 165 of three, as We-Math has them."""
    rng = random.Random(seed)
    counts = [2] * 360 + [3] * 165
    return {
        f"{n}steps_{i}": ([rng.random() < chance for _ in range(n)], rng.random() < chance)
        for i, n in enumerate(counts)
    }


def value(name: str, scored: Sequence[Scored]) -> float | None:
    return METRICS[f"wemath.{name}"](scored).value


def percent(text: str) -> float:
    return float(text.split("%")[0])


@pytest.mark.parametrize(("seed", "chance"), [(0, 0.5), (1, 0.2), (2, 0.8), (3, 0.97), (4, 0.05)])
def test_agrees_with_lmms_eval(seed: int, chance: float) -> None:
    utils = pytest.importorskip("lmms_eval.tasks.wemath.wemath_utils")
    scored = samples(full(seed, chance))
    random.Random(seed).shuffle(scored)
    data = pd.DataFrame(
        [{"ID": s.item.meta["ID"], "key": s.item.meta["key"], "joker": bool(s.verdict.correct)} for s in scored]
    )
    merged = [utils.process_steps_data(data[data["key"].str.contains(f"{n}steps")], n) for n in (2, 3)]
    theirs = utils.update_main_results_df(*utils.compute_final_scores(utils.calculate_metrics(*merged), 525))
    names = {
        "strict": "Score (Strict)", "loose": "Score (Loose)", "ik": "InsufficientKnowledge (Strict)",
        "ig": "InadequateGeneralization (Strict)", "cm": "CompleteMastery (Strict)",
        "rm_strict": "RoteMemorization (Strict)", "rm_loose": "RoteMemorization (Loose)",
    }  # fmt: skip
    ours = {name: METRICS[f"wemath.{name}"](scored) for name in names}
    assert {name: round(100 * (m.value or 0), 2) for name, m in ours.items()} == {
        name: pytest.approx(percent(theirs[column]), abs=0.0051) for name, column in names.items()
    }
    assert ours["strict"].n == 525 and not ours["strict"].note


def test_diagnosis_by_enumeration() -> None:
    """Strict is told by all steps, loose by any; the score has an equal second form."""
    for n in (2, 3):
        for *steps, whole in itertools.product([False, True], repeat=n + 1):
            strict, loose = (diagnose(steps, whole, strict=s) for s in (True, False))
            assert (strict in ("CM", "RM")) is (loose in ("CM", "RM")) is whole
            assert (strict == "CM") is (whole and sum(steps) == n) and (loose == "RM") is (whole and sum(steps) == 0)
            assert (strict == "IG") is (loose == "IG") is (not whole and sum(steps) == n)


def test_score_has_two_forms() -> None:
    for seed in range(5):
        scored = samples(full(seed, 0.6))
        ik, ig, cm = (value(name, scored) or 0 for name in ("ik", "ig", "cm"))
        assert value("strict", scored) == pytest.approx(1 - 0.5 * ig - ik - (1 - ik - ig - cm))


def test_subsets_divide_by_the_problems_there_are() -> None:
    """lmms-eval 0.7.3: 98.48 % or ZeroDivisionError on a subset (A.6 row 13, section 5 point 5)."""
    table: Table = {f"2steps_{i}": ([False, False], True) for i in range(8)}
    assert [value(name, samples(table)) for name in ("strict", "loose", "rm_strict")] == [0.0, 0.0, 1.0]
    nothing: Table = {f"3steps_{i}": ([True] * 3, False) for i in range(4)}
    assert [value(name, samples(nothing)) for name in NAMES] == [0.5, 0.5, 0.0, 1.0, 0.0, None, None]
    assert [value(name, []) for name in NAMES] == [None] * 7


def test_incomplete_problems_are_left_out_and_said() -> None:
    scored = samples(
        {"2steps_1": ([True, True], True), "3steps_1": ([True] * 3, False), "3steps_2": ([True] * 3, True)}
    )
    measure = METRICS["wemath.strict"](scored[:5])
    assert (measure.value, measure.n) == (1.0, 1) and "1 of 2 problems are incomplete" in measure.note
    measure = METRICS["wemath.strict"](scored[:2])
    assert (measure.value, measure.n) == (None, 0)
    unjudged = Scored(scored[0].item, Verdict(None, None, None, "r"))
    measure = METRICS["wemath.strict"]([unjudged, *scored[1:]])
    assert (measure.value, measure.n) == (0.75, 2)
    assert "1 of 11 samples are unjudged" in measure.note and "1 of 3 problems" in measure.note


def test_repeats_are_problems_of_their_own() -> None:
    once = samples({"2steps_1": ([True, True], True)})
    again = samples({"2steps_1": ([True, False], False)})
    measure = METRICS["wemath.strict"]([*once, *again])
    assert (measure.value, measure.n, measure.note) == (0.5, 2, "")


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("<Thought process>: <<A or so>> <Answer>: <<D>>", "D"), ("Answer: C. 72°", "C"), ("B", "B"), ("B. 60", "B"),
        ("Answer: A\nNo, Answer: <<E>>.", "E"), ("The Answer is D", None), ("**Answer**: B", None), ("", None),
        ("Answer:", None), ("Answer: x", None), ("b", None), ("Answer : \n <<H>>", "H"),
    ],
)  # fmt: skip
def test_official_letter(reply: str, letter: str | None) -> None:
    """Expectations from the official rule as protocols.md 1.7 has it."""
    item = Item("1", (), letter or "A", "1", meta={"options": OPTIONS, "question": "How large is it?"})
    for rule in ("wemath.official", "wemath.vlmevalkit"):
        verdict = score(rule, item, reply)
        assert verdict == Verdict(letter is not None, float(letter is not None), letter, rule, letter is None)


@pytest.mark.parametrize("reply", ["The correct answer is D.", "D", r"\boxed{D}", "It is 90°."])
def test_lenient_letter(reply: str) -> None:
    """lmms-eval 0.7.3 scores the first two 0 (section 5 point 6)."""
    assert score("letter.lenient", Item("1", (), "D", "1", meta={"options": OPTIONS}), reply).correct


def test_judge() -> None:
    """Asked only for what cannot be inferred; then it says a letter."""
    asked = []

    def ask(prompt: str, *, system: str | None = None, temperature: float = 0.0, max_tokens: int = 2048) -> str:
        asked.append(prompt)
        return "D"

    item = Item("1", (), "D", "1", meta={"options": OPTIONS, "question": "How large is it?"})
    assert score("wemath.vlmevalkit", item, "I think it is D", ask).correct and not asked
    verdict = score("wemath.vlmevalkit", item, "A right angle, of course, as in every square, as one can see.", ask)
    assert verdict == Verdict(True, 1.0, "D", "wemath.vlmevalkit") and len(asked) == 1
    assert "How large is it?" in asked[0] and "E. No correct answer" in asked[0]


@pytest.mark.skipif(not FILES, reason=f"no We-Math rows in {REALDATA} (REALDATA_DIR names another folder)")
def test_real_rows() -> None:
    """Every group of the sample is complete; right answers in the asked form give full scores."""
    rows = pd.concat([pd.read_parquet(f, columns=["ID", "key", "answer", "question number"]) for f in FILES])
    items = [
        Item(str(row["question number"]), (), row["answer"], row["ID"], meta={"key": row["key"], "ID": row["ID"]})
        for row in rows.to_dict("records")
    ]
    right = [Scored(i, score("wemath.official", i, f"<Answer>: <<{i.answer}>>")) for i in items]
    measure = METRICS["wemath.strict"](right)
    assert (measure.value, measure.n, measure.note) == (1.0, rows["ID"].nunique(), "")
    only_whole = [
        Scored(i, score("wemath.official", i, i.answer if i.meta["key"].endswith("multi") else "?")) for i in items
    ]
    assert value("strict", only_whole) == 0.0, "lmms-eval 0.7.3 says 98.48 % here"
