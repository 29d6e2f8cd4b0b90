"""MMMU-Pro and ScienceQA: multiple choice."""

from __future__ import annotations

import re

from harness.benchmarks.data import Source
from harness.benchmarks.errors import DataError
from harness.benchmarks.rows import Row
from harness.benchmarks.sets.base import Facts, Set, Version, among, letter, listed, text

MMMU_PRO_HUB, SCIENCEQA_HUB = "MMMU/MMMU_Pro", "lmms-lab-encoder/ScienceQA"


def _mmmu_pro(row: Row) -> Facts:
    subject = text(row, "subject")
    meta = {"question": text(row, "question"), "options": listed(row["options"]), "subject": subject}
    answer = among(text(row, "answer"), listed(row["options"]), least=1)  # a few questions have one option
    return Facts(id=text(row, "id"), answer=answer, category=subject, meta=meta)


def referenced(row: Row, filled: list[str]) -> list[str]:
    """Pictures that question and options refer to, by number; all of them where none is referred to."""
    numbers = sorted(set(re.findall(r"<image (\d)>", f"{row['question']} {row['options']}")))
    wanted = [f"image_{number}" for number in numbers]
    for name in wanted:
        if name not in filled:
            raise DataError(f"refers to {name}, which is empty")
    return wanted or filled


MMMU_PRO_STANDARD = Set(
    versions={"all": Version(1730, (Source(MMMU_PRO_HUB, "standard (10 options)", ("test",)),), "mmmu_pro_standard")},
    columns={
        "id": "text", "question": "text", "options": "text", "answer": "text", "subject": "text", "image_1": "picture",
        "image_2": "picture", "image_3": "picture", "image_4": "picture", "image_5": "picture", "image_6": "picture",
        "image_7": "picture",
    },
    facts=_mmmu_pro,
    pictures=referenced,
)  # fmt: skip

MMMU_PRO_VISION = Set(
    versions={"all": Version(1730, (Source(MMMU_PRO_HUB, "vision", ("test",)),), "mmmu_pro_vision")},
    columns={"id": "text", "image": "picture", "options": "text", "answer": "text", "subject": "text"},
    facts=_mmmu_pro,
)


def _scienceqa(row: Row) -> Facts:
    options, index = listed(row["choices"]), int(row["answer"])
    if not 0 <= index < len(options):
        raise DataError(f"answer {index} is none of {len(options)} choices")
    answer = among(letter(index), options)
    meta = {"question": text(row, "question"), "options": options}
    return Facts(id=f"{row['_row']:05d}", answer=answer, category=text(row, "subject"), meta=meta)


def _scienceqa_version(n: int, config: str, split: str, task: str) -> Version:
    pictures = None if config == "ScienceQA-FULL" else True
    return Version(n, (Source(SCIENCEQA_HUB, config, (split,)),), task, pictures=pictures)


SCIENCEQA = Set(
    versions={
        "img": _scienceqa_version(2017, "ScienceQA-IMG", "test", "scienceqa_img"),
        "full": _scienceqa_version(4241, "ScienceQA-FULL", "test", "scienceqa"),
        "img_val": _scienceqa_version(2097, "ScienceQA-IMG", "validation", "scienceqa_img"),
    },
    columns={
        "image": "picture", "question": "text", "choices": "list", "answer": "number", "hint": "text",
        "subject": "text",
    },
    facts=_scienceqa,
)  # fmt: skip
