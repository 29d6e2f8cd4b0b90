"""Predictions as VLMEvalKit stores them: `<model>_<DATASET>.xlsx`, and .tsv beside it, one row per question.

Its own TSV files could not be seen when this was written: rows are numbered by their order on the hub, from 0, which
need not be the `index` of the kit. Its scorers read question, options, answer and categories from this file, but newer
ones refuse an index that their own file lacks.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.benchmarks.rows import Row
from harness.benchmarks.sets import Facts
from harness.benchmarks.sets.base import letter
from harness.runs.errors import InputError
from harness.runs.export.answers import SURROGATES, Answers
from harness.runs.log import write_atomically
from harness.runs.summary import Record, failed

FAILED = "Failed to obtain answer via API."
"""What the kit stores for a question whose generation failed, and its scorers look for."""
LONGEST = 32767
"""Characters that a cell of a spreadsheet can hold."""
UNWRITABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""Characters that a spreadsheet cannot hold."""
NAMES = {
    ("mathverse", "all"): "MathVerse_MINI",
    ("mathverse", "text_lite"): "MathVerse_MINI_Text_Lite",
    ("mathverse", "text_dominant"): "MathVerse_MINI_Text_Dominant",
    ("mathverse", "vision_intensive"): "MathVerse_MINI_Vision_Intensive",
    ("mathverse", "vision_dominant"): "MathVerse_MINI_Vision_Dominant",
    ("mathverse", "vision_only"): "MathVerse_MINI_Vision_Only",
    ("wemath", "all"): "WeMath",
    ("dynamath", "all"): "DynaMath",
    ("logicvista", "all"): "LogicVista",
    ("mmmu_pro_standard", "all"): "MMMU_Pro_10c",
    ("mmmu_pro_vision", "all"): "MMMU_Pro_V",
    ("scienceqa", "img"): "ScienceQA_TEST",
    ("scienceqa", "img_val"): "ScienceQA_VAL",
    ("gqa", "all"): "GQA_TestDev_Balanced",
    ("textvqa", "all"): "TextVQA_VAL",
    **{("pope", version): "POPE" for version in ("all", "adversarial", "popular", "random")},
}
"""The kit's data sets by ours and their versions."""


def write(answers: Answers, out: Path, fill: bool) -> dict[str, Any]:
    """Write both files; questions that were not run are left out, since the kit scores subsets too."""
    lines = rows(answers)
    stem = f"{answers.label}_{dataset(answers)}"
    out.mkdir(parents=True, exist_ok=True)
    cut = write_xlsx(out / f"{stem}.xlsx", lines)
    write_tsv(out / f"{stem}.tsv", lines)
    n, wrong = len(answers.entries), sum(line["prediction"] == FAILED for line in lines)
    notes = [*answers.notes, "index is the row of the hub's data, from 0"]
    notes += [f"{n - len(lines)} questions were not run"] if len(lines) < n else []
    notes += [f"{cut} texts too long for a spreadsheet keep their end, the .tsv has them whole"] if cut else []
    return {
        "file": str(out / f"{stem}.xlsx"),
        "answers": len(lines),
        "of": n,
        "failed": wrong,
        "note": "; ".join(notes),
    }


def dataset(answers: Answers) -> str:
    """The kit's name of the data set. Raises InputError where none is known here."""
    version = answers.table.version or next(iter(answers.table.known.versions))
    name = NAMES.get((answers.table.set, version))
    if name is None:
        raise InputError(f"{answers.folder}: no form of VLMEvalKit is known of {answers.table.set}, version {version}")
    if name == "WeMath":
        return f"{name}_COT" if "<<your option>>" in answers.table.prompt else name
    aloud = str(answers.config["benchmark"]["name"]).endswith("_cot")
    suffix = {"MMMU_Pro_10c": "_COT", "MMMU_Pro_V": "_COT", "MathVerse_MINI_Vision_Only": "_cot"}.get(name, "")
    return name + suffix if aloud else name


def rows(answers: Answers) -> list[dict[str, Any]]:
    """One per question that was run: the columns that the kit's scorers read, then the others of the data."""
    place = {row["_row"]: i for i, row in enumerate(answers.table.selected)}
    first = {e.facts.cluster: place[e.row["_row"]] for e in reversed(answers.entries) if _variant(e.facts) == 1}
    done = [(e, answers.records[e.facts.id]) for e in answers.entries if e.facts.id in answers.records]
    letters = [letter(k) for k in range(max((len(e.facts.meta.get("options", ())) for e, _ in done), default=0))]
    thoughts = any(thinking for _, record in done for thinking, _ in [split(answers, record)])
    lines = []
    for entry, record in done:
        facts, index = entry.facts, place[entry.row["_row"]]
        thinking, prediction = split(answers, record)
        line = {"index": index, "question": facts.meta["question"]}
        line |= dict.fromkeys(letters) | dict(zip(letters, facts.meta.get("options", ()), strict=False))
        line |= {"answer": reference(answers.table.set, facts), "category": facts.category}
        if answers.table.set == "dynamath":  # the kit names a seed question by the index of its first variant
            line |= {"varid": _variant(facts), "qid": first.get(facts.cluster, index)}
        if answers.table.set == "logicvista":
            line["skill"] = facts.meta["skill"]
        line |= {name: value for name, value in plain(entry.row, answers.table.rows.columns) if name not in line}
        lines.append(line | {"prediction": prediction} | ({"thinking": thinking} if thoughts else {}))
    return lines


def split(answers: Answers, record: Record) -> tuple[str, str]:
    """Thinking and prediction, as the kit's SPLIT_THINK tells them apart: at the last `</think>`, if there is one."""
    if failed(record):
        return "", FAILED
    if answers.config["protocol"]["thinking"] == "whole":
        return "", record["text"]
    thinking, mark, answer = record["text"].rpartition("</think>")
    return (thinking.strip(), answer.strip()) if mark else ("", record["text"])


def reference(name: str, facts: Facts) -> str:
    """The answer as the kit writes it: Yes or No for POPE, a list of all for TextVQA."""
    if name == "textvqa":
        return str(facts.meta["answers"])
    return facts.answer.capitalize() if name == "pope" else facts.answer


def plain(row: Row, pictures: Sequence[str]) -> list[tuple[str, Any]]:
    """The columns of the data that are no pictures; structures as Python writes them, which the kit reads back."""
    kept = [(k, v) for k, v in row.items() if k[0] != "_" and k not in pictures]
    return [(k, v if isinstance(v, int | float | None) else str(v)) for k, v in kept]


def _variant(facts: Facts) -> int:
    """Number of a DynaMath variant, from "<seed>_<variant>"; 0 where the data do not say."""
    _, _, variant = facts.id.rpartition("_")
    return int(variant) if variant.isdecimal() else 0


def write_tsv(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """As the kit's `dump_tsv` writes it: all is quoted, since a bare carriage return would end a row."""
    import pandas

    whole = [{k: SURROGATES.sub("�", v) if isinstance(v, str) else v for k, v in line.items()} for line in lines]
    write_atomically(path, pandas.DataFrame(whole).to_csv(sep="\t", index=False, quoting=csv.QUOTE_ALL))


def write_xlsx(path: Path, lines: Sequence[Mapping[str, Any]]) -> int:
    """Write a spreadsheet in which every text is a text, also "=1+1"; returns how many were too long."""
    from openpyxl import Workbook  # type: ignore[import-untyped]
    from openpyxl.cell import WriteOnlyCell  # type: ignore[import-untyped]

    book, cut = Workbook(write_only=True), 0
    sheet = book.create_sheet()
    for line in [{name: name for name in lines[0]} if lines else {}, *lines]:
        cells = []
        for value in line.values():
            text = UNWRITABLE.sub("�", value) if isinstance(value, str) else value
            if isinstance(text, str) and len(text) > LONGEST:
                text, cut = text[-LONGEST:], cut + 1
            cell = WriteOnlyCell(sheet, value=text)
            if isinstance(text, str):
                cell.data_type = "s"  # and not "f", a formula
                cell.quotePrefix = text.startswith(("=", "+", "-", "@"))  # stays a text when it is edited
            cells.append(cell)
        sheet.append(cells)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    book.save(temporary)
    temporary.replace(path)
    return cut
