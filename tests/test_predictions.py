"""Published predictions of other people, scored anew: letters, verdicts and numbers must be those that were published.

Every file of the layout is taken. What files store themselves (letters, verdicts, sums) is compared for all of them;
KNOWN has the published numbers of some. One line per file is printed, in per cent: set | file | published | ours.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

import pytest

from harness.benchmarks.base import Item
from harness.benchmarks.scoring import METRICS, Scored, Verdict, mmmu, score
from tests.benchmarks.predictions import (
    PREDICTIONS,
    REALDATA,
    SEED,
    Row,
    dynamath,
    lines,
    mmbench,
    mmmu_pro,
    mmmu_val,
    mmvet,
    only,
    pope,
    scienceqa,
)

KNOWN: dict[tuple[str, str], tuple[float, ...]] = {
    ("MMMU-Pro", "mmmu_pro_gpt4o/standard10_cot"): (55.03,),
    ("MMMU-Pro", "mmmu_pro_gpt4o/standard10_direct"): (40.12,),
    ("MMMU-Pro", "mmmu_pro_gpt4o/vision_cot"): (50.06,),
    ("MMMU-Pro", "mmmu_pro_gpt4o/vision_direct"): (42.43,),
    ("MMMU val", "llava1.5_13b"): (36.67,),
    ("MMMU val", "qwen_vl"): (36.11,),
    ("DynaMath average, worst", "Qwen2-7B"): (42.14, 13.77),
    ("DynaMath average, worst", "claude3.5"): (64.83, 35.73),
    ("POPE mean of three F1", "llava_v1.5_13b"): (85.95,),
    ("ScienceQA IMG, all", "llava_v1.5_13b"): (71.64, 74.39),
    ("MMBench circular", "llava_v1.5_13b/mmbench_dev_20230712"): (67.69,),
    ("MMBench circular", "mmbench_dev_20230712_all"): (67.69,),
    ("MM-Vet", "llava_v1.5_13b"): (36.31,),
    ("MM-Vet", "llava_v1.5_7b"): (31.10,),
    ("TextVQA 30 rows", "pruned LLaVA-1.5-7B"): (32.00,),
}
Report = Callable[..., None]


def aside(path: Path) -> bool:
    return path.name.startswith((".", "README"))


def entries(*patterns: str, root: Path = PREDICTIONS) -> list[object]:
    """What is there under each pattern, or a skipped test."""
    found = [path for pattern in patterns for path in sorted(root.glob(pattern)) if not aside(path)]
    reason = f"nothing like {' or '.join(patterns)} in {root} (PREDICTIONS_DIR or REALDATA_DIR names another folder)"
    return [pytest.param(path, id=str(path.relative_to(root))) for path in found] or [
        pytest.param(root, marks=pytest.mark.skip(reason=reason))
    ]


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Report:
    """Prints a line, also without -s, and compares what is ours, or `compared`, with what is known or stored."""

    def line(
        kind: str, file: str, ours: Sequence[float], stored: Sequence[float] = (), note: str = "",
        compared: Sequence[float] | None = None,
    ) -> None:  # fmt: skip
        known = KNOWN.get((kind, file), tuple(100 * value for value in stored))
        said = [" / ".join(f"{value:.2f}" for value in values) or "-" for values in (known, [100 * v for v in ours])]
        with capsys.disabled():
            print(f"\n{kind:24} | {file:32} | {said[0]:>13} | {said[1]:>13}{note and ' | ' + note}", end=" ")
        if known:
            mine = [100 * value for value in (ours if compared is None else compared)]
            assert mine == pytest.approx(known, abs=0.0051)

    return line


def scored(rule: str, rows: Sequence[Row]) -> list[Scored]:
    return [Scored(row.item, score(rule, row.item, row.reply)) for row in rows]


def metric(name: str, samples: Sequence[Scored]) -> float:
    value = METRICS[name](samples).value
    assert value is not None
    return value


def stem(path: Path) -> str:
    return path.name.removesuffix(".gz").partition(".jsonl")[0].removesuffix("-result.csv")


def test_everything_in_the_folder_is_scored() -> None:
    if not PREDICTIONS.exists():
        pytest.skip(f"no folder {PREDICTIONS} (PREDICTIONS_DIR names another)")
    known = ("mmmu_pro_*", "mmmu_val", "dynamath", "llava_*")
    strange = [path for path in PREDICTIONS.iterdir() if not aside(path) and not any(map(path.match, known))]
    assert not strange


@pytest.mark.parametrize("file", entries("mmmu_pro_*/*"))
def test_mmmu_pro(file: Path, report: Report) -> None:
    """Every letter that the parser reads is the published one. Where nothing can be read both guess, the published code
    without a seed: those letters agree by chance alone, so that the number that is compared has the published guesses.
    """
    rows = mmmu_pro(file)
    samples = scored("mmmu_pro.official", rows)
    read = [(sample.verdict, row) for sample, row in zip(samples, rows, strict=True) if not sample.verdict.unparsed]
    equal = sum(verdict.extracted == row.stored and verdict.correct == row.right for verdict, row in read)
    assert equal >= len(read) * (0.994 if "direct" in file.name else 1.0)
    guesses = [row for sample, row in zip(samples, rows, strict=True) if sample.verdict.unparsed]
    assert len(guesses) <= 0.2 * len(rows), "too many replies without a letter: another parser wrote this file"
    right = sum(bool(verdict.correct) for verdict, _ in read) + sum(bool(row.right) for row in guesses)
    with_theirs, published = right / len(rows), sum(bool(row.right) for row in rows) / len(rows)
    note = f"{equal}/{len(read)} letters, {len(guesses)} guessed; with the published guesses {100 * with_theirs:.2f}"
    name = f"{file.parent.name}/{stem(file)}"
    report("MMMU-Pro", name, [metric("mean", samples)], [published], note, [with_theirs])


@pytest.mark.parametrize(
    "folder", [case for case in entries("mmmu_val/*") if "answer_dict_val.json" not in str(case.id)]
)  # fmt: skip
def test_mmmu_val(folder: Path, report: Report) -> None:
    """All letters, with guesses from the official stream; open answers are among those that the parser finds."""
    rows, stream = mmmu_val(folder), random.Random(SEED)
    samples = scored("mmmu.official", rows)
    right = letters = guesses = 0
    for sample, row in zip(samples, rows, strict=True):
        options, said = row.item.meta["options"], sample.verdict.extracted
        if options and sample.verdict.unparsed:
            guesses += 1
            said = stream.choice("ABCDEFGHIJ"[: len(options)])
        if options:
            assert said == row.stored, row
            letters += 1
            right += said == row.item.answer
        else:
            assert row.stored in map(str, mmmu.stated(row.reply)), row
            right += bool(sample.verdict.correct)
    official = right / len(rows)
    note = f"{letters}/{letters} letters, {guesses} guessed; with the official guesses {100 * official:.2f}"
    report("MMMU val", folder.name, [metric("mean", samples)], note=note, compared=[official])


@pytest.mark.parametrize("file", entries("dynamath/*"))
def test_dynamath(file: Path, report: Report) -> None:
    right = dynamath(file)
    samples = [
        Scored(Item(f"{question}-{variant}", (), "", str(question)), Verdict(bool(ok), float(ok), None, "stored"))
        for question, row in right.iterrows() for variant, ok in row.items()
    ]  # fmt: skip
    ours = [metric("dynamath.average", samples), metric("dynamath.worst", samples)]
    assert ours == pytest.approx([right.to_numpy().mean(), right.all(axis=1).mean()])
    report("DynaMath average, worst", stem(file), ours, ours)


@pytest.mark.parametrize("folder", entries("llava_*"))
def test_llava_folders_hold_known_sets(folder: Path) -> None:
    sets = {path.name for path in folder.iterdir() if not aside(path)}
    assert sets and sets <= {"pope", "scienceqa", "textvqa", "mmbench", "mm-vet"}
    assert "mmbench" not in sets or list(folder.glob("mmbench/**/*.xlsx"))


@pytest.mark.parametrize("folder", entries("llava_*/pope"))
def test_pope(folder: Path, report: Report) -> None:
    rows = pope(folder)
    samples = scored("pope.llava", rows)
    f1 = []
    for _, group in groupby(samples, key=lambda sample: sample.item.category):
        pairs = [(sample.item.answer, sample.verdict.extracted) for sample in group]
        precision, recall = (
            sum(pair == ("yes", "yes") for pair in pairs) / sum(pair[side] == "yes" for pair in pairs)
            for side in (1, 0)
        )
        f1.append(2 * precision * recall / (precision + recall))
    ours = metric("pope.llava_mean_f1", samples)
    assert ours == pytest.approx(sum(f1) / 3)
    rows_of = METRICS["pope.llava_mean_f1"](samples).note
    report("POPE mean of three F1", folder.parent.name, [ours], note=rows_of)


@pytest.mark.parametrize("folder", entries("llava_*/scienceqa"))
def test_scienceqa(folder: Path, report: Report) -> None:
    rows, result = scienceqa(folder)
    samples = scored("scienceqa.llava", rows)
    for sample, row in zip(samples, rows, strict=True):
        assert (sample.verdict.extracted, sample.verdict.correct) == (row.stored, row.right), row
    everything = metric("mean", samples)
    assert (len(rows), 100 * everything) == (result["count"], pytest.approx(result["acc"]))
    pictures = metric("mean", [sample for sample in samples if sample.item.meta["picture"]])
    assert metric("mean", scored("scienceqa.lmms", rows)) == pytest.approx(everything), (
        "both rules agree on real replies"
    )
    report("ScienceQA IMG, all", folder.parent.name, [pictures, everything])


@pytest.mark.parametrize(
    "file", entries("llava_*/mmbench/**/*.xlsx") + entries("text_only/mmbench_*.jsonl.gz", root=REALDATA)
)  # fmt: skip
def test_mmbench(file: Path, report: Report) -> None:
    rows = mmbench(file)
    samples = scored("mcq.vlmevalkit", rows)
    groups: dict[str, list[bool]] = {}
    for row in rows:
        groups.setdefault(row.item.cluster, []).append(row.reply.strip()[:1] == row.item.answer)
    measure = METRICS["mmbench.circular"](samples)
    assert (measure.value, measure.n, measure.note) == (sum(map(all, groups.values())) / len(groups), len(groups), "")
    name = (
        stem(file) if file.is_relative_to(REALDATA) else f"{file.relative_to(PREDICTIONS).parts[0]}/{file.parent.name}"
    )
    report("MMBench circular", name, [measure.value], note=f"{measure.n} questions")


@pytest.mark.parametrize("folder", entries("llava_*/mm-vet"))
def test_mmvet(folder: Path, report: Report) -> None:
    for items, runs, single, combined in mmvet(folder):
        graded = [
            [Scored(item, Verdict(grade == 1.0, grade, None, "stored")) for item, grade in zip(items, run, strict=True)]
            for run in runs
        ]
        totals = [metric("mmvet.total", samples) for samples in graded]
        published = [float(run) / 100 for run in single["runs"].strip("[]").split(",")]
        assert totals == pytest.approx(published, abs=0.000501)
        for name, published in single.drop(["total", "std", "runs"]).items():
            mine = [metric(f"mmvet.{name}", samples) for samples in graded]
            assert 100 * sum(mine) / len(mine) == pytest.approx(published, abs=0.0501), name
        for names, published in combined.drop(["total", "std", "runs"]).items():
            exactly = set(str(names).split("_"))
            mine = [
                metric("mean", [s for s in samples if set(s.item.meta["capabilities"]) == exactly])
                for samples in graded
            ]
            assert 100 * sum(mine) / len(mine) == pytest.approx(published, abs=0.0501), names
        report(
            "MM-Vet", folder.parent.name, [sum(totals) / len(totals)], note=f"{len(runs)} grading runs, {single.name}"
        )


@pytest.mark.parametrize("file", entries("text_only/textvqa_val_first30.jsonl", root=REALDATA))
def test_textvqa_rows(file: Path, report: Report) -> None:
    rows = lines(file, "answers", "pred_apet_llava15_7b_pruned_no_ocr", "score_reported")
    values = []
    for row in rows:
        item = Item(row["image_id"], (), row["answers"][0], row["image_id"], meta={"answers": row["answers"]})
        verdicts = [
            score(rule, item, row["pred_apet_llava15_7b_pruned_no_ocr"]) for rule in ("textvqa.lmms", "textvqa.llava")
        ]
        assert [verdict.value for verdict in verdicts] == pytest.approx([row["score_reported"]] * 2), row
        values.append(verdicts[0].value or 0.0)
    report("TextVQA 30 rows", "pruned LLaVA-1.5-7B", [sum(values) / len(values)], note=f"{len(rows)} rows equal")


@pytest.mark.parametrize("folder", entries("llava_*/textvqa"))
def test_textvqa_of_llava(folder: Path, report: Report) -> None:
    """The references of most questions are not public here: the replies to the 30 that are."""
    replies = {
        (row["question_id"], row["prompt"].partition("\n")[0].lower()): row["text"]
        for row in lines(only(folder / "answers", "*.jsonl", "*.jsonl.gz"), "question_id", "prompt", "text")
    }
    known = REALDATA / "text_only" / "textvqa_val_first30.jsonl"
    if not known.exists():
        pytest.skip(f"no {known} (REALDATA_DIR names another folder)")
    rows = lines(known, "image_id", "question", "answers")
    items = [Item(str(i), (), "", row["image_id"], meta={"answers": row["answers"]}) for i, row in enumerate(rows)]
    said = [replies[row["image_id"], row["question"].lower()] for row in rows]
    samples = scored("textvqa.llava", [Row(item, reply) for item, reply in zip(items, said, strict=True)])
    report("TextVQA 30 rows", folder.parent.name, [metric("mean", samples)])
