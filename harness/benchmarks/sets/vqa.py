"""POPE, GQA and TextVQA: short answers about photographs."""

from __future__ import annotations

from harness.benchmarks.data import Source
from harness.benchmarks.rows import Row
from harness.benchmarks.sets.base import Facts, Join, Set, Version, text

POPE_HUB, GQA_HUB, TEXTVQA_HUB = "lmms-lab-encoder/POPE", "lmms-lab-encoder/GQA", "lmms-lab-encoder/textvqa"


def _pope(row: Row) -> Facts:
    return Facts(
        id=text(row, "id") or f"{row['_row']}", answer=text(row, "answer").lower(), cluster=text(row, "image_source"),
        category=text(row, "category"), meta={"question": text(row, "question")},
    )  # fmt: skip


def _pope_part(name: str, task: str) -> Version:
    sources = Source(POPE_HUB, "default", ("test",)), Source(POPE_HUB, "Full", (name,))
    return Version(3000, sources, task, ("category", name))


POPE = Set(
    versions={
        "all": Version(9000, (Source(POPE_HUB, "default", ("test",)),), "pope"),
        "adversarial": _pope_part("adversarial", "pope_adv"),
        "popular": _pope_part("popular", "pope_pop"),
        "random": _pope_part("random", "pope_random"),
    },
    columns={
        "id": "text", "question": "text", "answer": "text", "image_source": "text", "image": "picture",
        "category": "text",
    },
    facts=_pope,
)  # fmt: skip


def _gqa(row: Row) -> Facts:
    return Facts(
        id=text(row, "id"), answer=text(row, "answer"), cluster=text(row, "imageId"),
        category=str(row["types"]["structural"] or ""), meta={"question": text(row, "question")},
    )  # fmt: skip


GQA = Set(
    versions={"all": Version(12578, (Source(GQA_HUB, "testdev_balanced_instructions", ("testdev",)),), "gqa")},
    columns={"id": "text", "imageId": "text", "question": "text", "answer": "text", "types": "struct"},
    facts=_gqa,
    join=Join(Source(GQA_HUB, "testdev_balanced_images", ("testdev",)), 398, column="image", on="imageId", key="id"),
)


def _textvqa(row: Row) -> Facts:
    answers = [str(answer) for answer in row["answers"] or []]
    commonest = max(answers, key=answers.count, default="")
    return Facts(
        id=text(row, "question_id"), answer=commonest, cluster=text(row, "image_id"),
        meta={"question": text(row, "question"), "answers": answers},
    )  # fmt: skip


TEXTVQA = Set(
    versions={"all": Version(5000, (Source(TEXTVQA_HUB, "default", ("validation",)),), "textvqa_val")},
    columns={
        "image_id": "text", "question_id": "text", "question": "text", "answers": "list", "ocr_tokens": "list",
        "image": "picture",
    },
    facts=_textvqa,
)  # fmt: skip
