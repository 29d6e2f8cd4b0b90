"""MathVerse, We-Math, DynaMath and LogicVista: problems told by diagrams."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.benchmarks.data import Source
from harness.benchmarks.rows import Row
from harness.benchmarks.sets.base import Facts, Set, Version, among, split_options, text

MATHVERSE_HUB, WEMATH_HUB, LOGICVISTA_HUB = "CaraJ/MathVerse-lmmseval", "We-Math/We-Math", "lscpku/LogicVista"
VARIANTS = 10
"""Variants of each DynaMath seed question."""


def _mathverse(row: Row) -> Facts:
    kept = ("question_type", "problem_version", "question_for_eval")
    return Facts(
        id=text(row, "sample_index"), answer=text(row, "answer"), cluster=text(row, "problem_index"),
        category=text(row, "problem_version"),
        meta={"question": text(row, "question"), **{name: text(row, name) for name in kept}},
    )  # fmt: skip


def _mathverse_part(name: str) -> Version:
    sources = (
        Source(MATHVERSE_HUB, "testmini", ("testmini",)),
        Source(MATHVERSE_HUB, "testmini_version_split", (name,), files=(f"testmini_{name}",)),
    )
    where = "problem_version", name.replace("_", " ").title()
    return Version(788, sources, f"mathverse_testmini_{name}", where)


PARTS = ("text_lite", "text_dominant", "vision_intensive", "vision_dominant", "vision_only")
MATHVERSE = Set(
    versions={
        "all": Version(3940, (Source(MATHVERSE_HUB, "testmini", ("testmini",)),), "mathverse_testmini"),
        **{name: _mathverse_part(name) for name in PARTS},
        "text_only": Version(
            788, (Source(MATHVERSE_HUB, "testmini_text_only", ("text_only",)),), "mathverse_testmini_text_only",
            ("problem_version", "Text Only"), pictures=False,
        ),
    },
    columns={
        "sample_index": "text", "problem_index": "text", "problem_version": "text", "question": "text",
        "image": "picture", "answer": "text", "question_type": "text", "query_wo": "text", "query_cot": "text",
        "question_for_eval": "text",
    },
    facts=_mathverse,
)  # fmt: skip


def _wemath(row: Row) -> Facts:
    kept = {"question number": row["question number"], **{name: text(row, name) for name in ("key", "ID", "split")}}
    options = split_options(text(row, "option"))
    return Facts(
        id=f"{kept['ID']}-{kept['key']}", answer=among(text(row, "answer"), options), cluster=kept["ID"],
        category=kept["key"], meta={"question": text(row, "question"), "options": options, **kept},
    )  # fmt: skip


def _wemath_whole(problem: Sequence[Facts]) -> bool:
    steps = int(problem[0].meta["key"][0])
    keys = {f"{steps}steps_{k}" for k in [*range(1, steps + 1), "multi"]}
    return keys == {row.meta["key"] for row in problem} and len(problem) == len(keys)


WEMATH = Set(
    versions={"all": Version(1740, (Source(WEMATH_HUB, "default", ("testmini",)),), "wemath_testmini_reasoning")},
    columns={
        "ID": "text", "split": "text", "question": "text", "option": "text", "answer": "text",
        "image_path": "picture", "key": "text", "question number": "number",
    },
    facts=_wemath,
    whole=_wemath_whole,
)  # fmt: skip


def _dynamath(row: Row) -> Facts:
    """The sample form has a split for each variant; the other form names it in `question_id`, "<seed>_<variant>"."""
    seed = text(row, "id")
    variant = re.fullmatch(r"sample_variant(\d+)", row["_split"]) or re.search(r"_(\d+)$", text(row, "question_id"))
    kept = {name: text(row, name) for name in ("answer_type", "subject", "knowledge_level")}
    return Facts(
        id=f"{seed}_{variant[1]}" if variant else seed, answer=text(row, "ground_truth"), cluster=seed,
        category=kept["subject"], meta={"question": text(row, "question"), **kept},
    )  # fmt: skip


_VARIANTS = range(1, VARIANTS + 1)
DYNAMATH = Set(
    versions={
        "all": Version(
            501 * VARIANTS,
            (
                Source("kcz358/DynaMath", "default", ("test",)),
                Source(
                    "DynaMath/DynaMath_Sample", "default", tuple(f"sample_variant{k}" for k in _VARIANTS),
                    files=tuple(f"sample{k}" for k in _VARIANTS),
                ),
            ),
            "dynamath_reasoning",
        )
    },
    columns={
        "id": "text", "question": "text", "decoded_image": "picture", "ground_truth": "text", "answer_type": "text",
        "subject": "text",
    },
    facts=_dynamath,
    whole=lambda variants: len({v.id for v in variants}) == VARIANTS,
)  # fmt: skip


def _logicvista(row: Row) -> Facts | None:
    """One of the 448 rows (v1_382) has no answer: no answer to it can be right, so it is no item."""
    if not text(row, "answer"):
        return None
    skill = ", ".join(map(str, row["skill"] or []))
    meta = {"question": text(row, "question"), "skill": skill}
    return Facts(id=text(row, "id"), answer=text(row, "answer"), category=skill, meta=meta)


LOGICVISTA = Set(
    versions={"all": Version(447, (Source(LOGICVISTA_HUB, "default", ("test",)),), "logicvista_reasoning")},
    columns={"id": "text", "question": "text", "answer": "text", "skill": "list", "image": "picture"},
    facts=_logicvista,
)
