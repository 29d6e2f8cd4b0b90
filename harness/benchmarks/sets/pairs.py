"""MME and HallusionBench: yes/no questions that count in groups."""

from __future__ import annotations

from collections.abc import Sequence

from harness.benchmarks.data import Source
from harness.benchmarks.errors import DataError
from harness.benchmarks.rows import Row
from harness.benchmarks.sets.base import Facts, Set, Version, text

MME_HUB, HALLUSIONBENCH_HUB = "lmms-lab-encoder/MME", "lmms-lab-encoder/HallusionBench"
PLACE = ("category", "subcategory", "set_id", "figure_id", "question_id")


def _mme(row: Row) -> Facts:
    """Both questions on a picture have one `question_id`."""
    answer = text(row, "answer").lower().removesuffix(".")
    if answer not in ("yes", "no", ""):
        raise DataError(f"answer {answer!r} is neither yes nor no")
    return Facts(
        id=f"{row['_row']:04d}", answer=answer, cluster=text(row, "question_id"), category=text(row, "category"),
        meta={"question": text(row, "question")},
    )  # fmt: skip


def _pair(rows: Sequence[Facts]) -> bool:
    return len(rows) == 2


MME = Set(
    versions={"all": Version(2374, (Source(MME_HUB, "default", ("test",)),), "mme")},
    columns={"question_id": "text", "image": "picture", "question": "text", "answer": "text", "category": "text"},
    facts=_mme,
    whole=_pair,
)


def _hallusionbench(row: Row) -> Facts:
    """A set has several figures, of which several questions are asked."""
    category, subcategory, group, figure, question = (text(row, name) for name in PLACE)
    told = {"0": "no", "1": "yes"}.get(text(row, "gt_answer"), "")
    cluster = f"{category}_{subcategory}_{group}"
    meta = {"question": text(row, "question"), "details": text(row, "gt_answer_details"), "figure": figure}
    return Facts(f"{cluster}_{figure}_{question}", told, cluster, category, {**meta, "question_number": question})


HALLUSIONBENCH = Set(
    versions={
        "image": Version(951, (Source(HALLUSIONBENCH_HUB, "default", ("image",)),), "hallusion_bench_image"),
    },
    columns={
        "category": "text", "subcategory": "text", "set_id": "text", "figure_id": "text", "question_id": "text",
        "question": "text", "gt_answer": "text", "gt_answer_details": "text", "image": "picture",
    },
    facts=_hallusionbench,
    sized=True,
)  # fmt: skip
