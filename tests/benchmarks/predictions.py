"""Published predictions, as their authors store them: replies, references, and what the authors' own code read."""

from __future__ import annotations

import ast
import gzip
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any
from zipfile import BadZipFile

import pandas as pd

from harness.benchmarks.base import Item

SHARED = Path(__file__).parents[2].parent / "shared"
PREDICTIONS = Path(os.environ.get("PREDICTIONS_DIR") or SHARED / "predictions")
REALDATA = Path(os.environ.get("REALDATA_DIR") or SHARED / "realdata")
SEED = 42
"""MMMU's parser draws all its guesses from one stream with this seed, subject by subject."""


class BadFile(ValueError):
    """A file that is not what its place in the layout promises; the message says which and why."""


@dataclass(frozen=True)
class Row:
    """One published reply.

    Attributes:
        stored: what the authors' code read from it; None where it read nothing.
        right: the authors' verdict; None where none is stored.
    """

    item: Item
    reply: str
    stored: str | None = None
    right: bool | None = None


def text(file: Path) -> str:
    """A text file, packed or not."""
    try:
        return (gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise BadFile(f"{file}: {error}") from error


def load(file: Path) -> Any:
    """A JSON file."""
    try:
        return json.loads(text(file))
    except json.JSONDecodeError as error:
        raise BadFile(f"{file}: not JSON: {error}") from error


def lines(file: Path, *keys: str) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, which must have these keys."""
    found = []
    for n, line in enumerate(filter(str.strip, text(file).split("\n")), 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadFile(f"{file}, line {n}: not JSON: {error}") from error
        if missing := [key for key in keys if key not in row]:
            raise BadFile(f"{file}, line {n}: no {', '.join(missing)}")
        found.append(row)
    if not found:
        raise BadFile(f"{file}: empty")
    return found


def only(folder: Path, *patterns: str) -> Path:
    """The one file of a folder that fits one of the patterns."""
    found = [file for pattern in patterns for file in sorted(folder.glob(pattern))]
    if len(found) != 1:
        raise BadFile(f"{folder}: {len(found)} files like {' or '.join(patterns)}, not one")
    return found[0]


def mmmu_pro(file: Path) -> list[Row]:
    """MMMU-Pro, results of one model and setting with the repository's own letters and verdicts."""
    if not file.name.endswith((".jsonl.gz", ".jsonl")) or not ("cot" in file.name) ^ ("direct" in file.name):
        raise BadFile(f"{file}: not a .jsonl(.gz) with either cot or direct in its name")
    rows = []
    for row in lines(file, "id", "options", "answer", "response", "pred_indexs", "if_right"):
        options = [str(option) for option in ast.literal_eval(row["options"])]
        reply = row["response"] if isinstance(row["response"], str) else ""  # a failed call is stored as an object
        item = Item(row["id"], (), row["answer"], row["id"], row["subject"], meta={"options": options})
        rows.append(Row(item, reply, row["pred_indexs"], row["if_right"]))
    if (len(rows), len({row.item.id for row in rows})) != (1730, 1730):
        raise BadFile(f"{file}: {len(rows)} rows, not MMMU-Pro's 1730 questions")
    return rows


def mmmu_val(folder: Path) -> list[Row]:
    """MMMU validation, one model's replies by subject in the official order, with what the official parser read."""
    read, answers = load(folder / "total_val_output.json"), load(folder.parent / "answer_dict_val.json")
    strange = [f for f in folder.rglob("*") if f.is_file() and f.name not in ("output.json", "total_val_output.json")]
    if strange:
        raise BadFile(f"{strange[0]}: not a file of this layout")
    rows = []
    for file in sorted(folder.glob("*/output.json")):
        for row in load(file):
            truth = answers[row["id"]]["ground_truth"]
            if truth != row["answer"]:
                raise BadFile(f"{file}, {row['id']}: answer {row['answer']!r}, not {truth!r} of answer_dict_val.json")
            several = truth if isinstance(truth, list) else [truth]
            options = [row["index2ans"][letter] for letter in row["all_choices"]] if "all_choices" in row else []
            meta = {"options": options, "answers": several}
            item = Item(row["id"], (), several[0], row["id"], file.parent.name, meta=meta)
            rows.append(Row(item, row["response"], read.get(row["id"])))
    if not rows or {row.item.id for row in rows} != set(read):
        raise BadFile(f"{folder}: its output.json files and total_val_output.json are not on the same questions")
    return rows


def dynamath(file: Path) -> pd.DataFrame:
    """DynaMath, one model's verdicts: a row per question, a column per variant, true where it is right."""
    if not file.name.endswith("-result.csv"):
        raise BadFile(f"{file}: not a *-result.csv")
    table = pd.read_csv(file, dtype=str)
    variants = [column for column in table if column.startswith("Variant ")]
    table["Question ID"] = table["Question ID"].fillna("")
    questions = table[table["Question ID"].str.fullmatch(r"Q\d+")].set_index("Question ID")
    if questions.empty or questions.index.has_duplicates or not variants:
        raise BadFile(f"{file}: not one row per question and one column per variant")
    if strange := set(questions[variants].to_numpy().ravel()) - {"correct", "fail"}:
        raise BadFile(f"{file}: verdicts {sorted(map(str, strange))}, not correct or fail")
    right = questions[variants] == "correct"
    sums = [row for _, row in table.iterrows() if row["Question ID"].startswith("# of correct")]
    if (right.sum(axis=1) != questions["# of correct per question"].astype(int)).any() or any(
        (right.sum() != row[variants].astype(int)).any() for row in sums
    ):
        raise BadFile(f"{file}: its sums are not those of its verdicts")
    if right.shape != (501, 10):
        raise BadFile(f"{file}: {len(right)} questions with {len(variants)} variants, not 501 with 10")
    return right


def pope(folder: Path) -> list[Row]:
    """POPE with LLaVA's 8,910 questions."""
    questions = {row["question_id"]: row for row in lines(only(folder, "llava_pope_test.jsonl*"), "category", "image")}
    replies = lines(only(folder / "answers", "*.jsonl", "*.jsonl.gz"), "question_id", "text")
    if {row["question_id"] for row in replies} != set(questions) or len(replies) != len(questions):
        raise BadFile(f"{folder}: answers and questions do not agree")
    rows = []
    for category in ("adversarial", "popular", "random"):
        labels = lines(only(folder, f"coco_pope_{category}.json*"), "label", "text")
        mine = [row for row in replies if questions[row["question_id"]]["category"] == category]
        # The official script pairs labels with answers by their order.
        for label, row in zip(labels, mine, strict=True):
            question = questions[row["question_id"]]
            if not question["text"].startswith(label["text"]):
                raise BadFile(f"{folder}: question {row['question_id']} is not {label['text']!r}")
            item = Item(f"{category}-{row['question_id']}", (), label["label"], question["image"], category)
            rows.append(Row(item, row["text"]))
    return rows


def scienceqa(folder: Path) -> tuple[list[Row], dict[str, Any]]:
    """ScienceQA: replies with the letters that LLaVA's script read, and its result file."""
    truth = {row["id"]: row["conversations"][1]["value"] for row in load(only(folder, "llava_test_CQM-A.json*"))}
    output = load(only(folder / "answers", "*_output.json*"))
    rows = []
    for right in (True, False):
        for row in output["correct" if right else "incorrect"]:
            if truth[row["question_id"]] != row["ground_truth"]:
                raise BadFile(f"{folder}: {row['question_id']} has another ground truth")
            item = Item(row["question_id"], (), row["ground_truth"], "", meta={"picture": row["is_multimodal"]})
            rows.append(Row(item, row["pred"], None if row["parsed_ans"] == "FAILED" else row["parsed_ans"], right))
    return rows, load(only(folder / "answers", "*_result.json*"))


def mmbench(file: Path) -> list[Row]:
    """MMBench with predictions, a spreadsheet or lines; some of its questions have fewer rotations than options."""
    try:
        sheet = file.suffix == ".xlsx"
        table = pd.read_excel(file, engine="openpyxl") if sheet else pd.DataFrame(lines(file, "index", "answer"))
    except (OSError, BadZipFile) as error:
        raise BadFile(f"{file}: {error}") from error
    table = table.rename(columns={"pred_llava15_13b": "prediction"})
    rows, groups = [], table["index"] % 1_000_000
    sizes = groups.value_counts()
    for row, group in zip(table.to_dict("records"), groups, strict=True):
        options = [str(row[letter]) for letter in ascii_uppercase if letter in row and not pd.isna(row[letter])]
        meta = {"options": options, "question": row["question"], "group_size": int(sizes[group])}
        rows.append(Row(Item(str(row["index"]), (), row["answer"], str(group), meta=meta), str(row["prediction"])))
    return rows


def mmvet(folder: Path) -> Iterator[tuple[list[Item], list[list[float]], pd.Series, pd.Series]]:
    """MM-Vet with stored grades: per grading, items, grades of each run, and the published rows of both csv files."""
    questions = load(folder / "mm-vet.json")
    files = sorted((folder / "results").glob("*-grade-*.json*"))
    if not files:
        raise BadFile(f"{folder / 'results'}: no *-grade-*.json")
    for file in files:
        grades = load(file)
        if set(grades) != set(questions):
            raise BadFile(f"{file}: grades and questions do not agree")
        model, _, rest = file.name.partition("_gpt-4")
        runs = rest.removeprefix("-grade-").partition(".")[0]
        tables = [
            pd.read_csv(file.with_name(f"{model}_gpt-4-{kind}-score-{runs}.csv"), index_col=0).loc[model]
            for kind in ("cap", "cap-int")
        ]
        items = [Item(i, (), q["answer"], i, meta={"capabilities": q["capability"]}) for i, q in questions.items()]
        count = {len(grade["score"]) for grade in grades.values()}
        if len(count) != 1:
            raise BadFile(f"{file}: not the same number of grades for every question")
        scores = [[grades[item.id]["score"][run] for item in items] for run in range(count.pop())]
        yield items, scores, tables[0], tables[1]
