"""Rows of the image benchmarks in the hub's layout, and the schemas of those that schemas.json lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Make = Callable[[int], dict[str, Any]]


def value(dtype: str) -> dict[str, str]:
    return {"_type": "Value", "dtype": dtype}


def features(names: str, dtype: str = "string", **others: dict[str, Any]) -> dict[str, Any]:
    return {"features": {name: value(dtype) for name in names.split()} | {"image": {"_type": "Image"}} | others}


TEXTS = {"_type": "Sequence", "feature": value("string")}
SCHEMAS: dict[str, dict[str, Any]] = {
    "mmbench_cn": features("index", "int64", **{
        name: value("string")
        for name in ("question", "hint", "answer", "A", "B", "C", "D", "category", "source", "L2-category", "split")
    }),
    "seed_bench_image": features(
        "answer choice_a choice_b choice_c choice_d data_id data_type question question_id",
        question_type_id=value("int64"), image={"_type": "Sequence", "feature": {"_type": "Image"}},
    ),
    "mmmu": features(
        "id question options explanation answer question_type subfield",
        **{f"image_{k}": {"_type": "Image"} for k in range(1, 8)},
    ),
    "ai2d": features("question answer", options=TEXTS),
    "infovqa": features("questionId question", answers=TEXTS),
    "ocrbench": features("dataset question question_type", answer=TEXTS),
    "hallusionbench": features(
        "category subcategory visual_input set_id figure_id sample_note question_id question gt_answer_details "
        "gt_answer filename"
    ),
    "charxiv_reasoning": features(
        "reasoning_q reasoning_a category", reasoning_q_source=value("int64"), reasoning_a_type=value("int64")
    ),
}  # fmt: skip
"""As the code of lmms-eval 0.7.3 and of others reads these sets; their cards were not seen."""

OPTIONS = {"A": "a cat", "B": "a dog", "C": "nan", "D": "nan"}


def _rotated(i: int) -> dict[str, Any]:
    """Two questions of two options in two rotations each."""
    a, b = ("a cat", "a dog") if i < 2 else ("a dog", "a cat")
    hint = ["nan", "Look."][i % 2]
    return {**OPTIONS, "index": i % 2 + i // 2 * 1_000_000, "A": a, "B": b, "answer": "AB"[i // 2], "hint": hint}


def _inline(i: int) -> dict[str, Any]:
    question = "Who is it?\nOptions: A: a cat, B: a dog, or a wolf, C: D, D: nobody"
    return {"index": i, "question": question if i else "Who?", "answer": "ABCD"[i], "l2_category": f"kind {i % 2}"}


def _seed(i: int) -> dict[str, Any]:
    return {"answer": "ABCD"[i % 4], "data_type": ["image", "video"][i == 2], "data_id": f"d{i // 2}",
            "question_id": str(100 + i)}  # fmt: skip


def _mmmu(i: int) -> dict[str, Any]:
    row = {f"image_{k}": None for k in range(2, 8)} | {"id": f"validation_Art_Theory_{i}", "answer": "B"}
    if i == 1:  # an open question with two answers
        return row | {"question": "How much is <image 1>?", "options": "[]", "question_type": "open",
                      "answer": "['1/2', '0.5']"}  # fmt: skip
    return row | {
        "question": f"<image 1> What is {i}?",
        "options": "['x', \"y's\"]",
        "question_type": "multiple-choice",
    }


def _real(i: int) -> dict[str, Any]:
    asked = "Please answer directly with only the letter of the correct option and nothing else."
    choice = {"question": f"Which way?\n\nA. Left\nB. Right\n{asked}", "answer": "B"}
    return choice if i % 2 == 0 else {"question": "How many? Please answer directly with a number.", "answer": "3"}


def _figure(i: int) -> dict[str, Any]:
    """A set of two figures with two questions each."""
    place = {"category": "VD", "subcategory": "chart", "set_id": "0", "figure_id": str(i // 2)}
    return {**place, "question_id": str(i % 2), "gt_answer": str(i % 2)}


LOCAL: dict[str, list[tuple[str, str, int, Make]]] = {
    "mmbench": [
        ("en/dev-00000-of-00001.parquet", "mmbench_en", 4, _rotated),
        ("cn/dev-00000-of-00001.parquet", "mmbench_cn", 4, _rotated),
    ],
    "mme": [
        ("data/test-00000-of-00001.parquet", "mme", 4,
         lambda i: {"question_id": f"count/{i // 2}.png", "category": "count", "answer": ["Yes", "No"][i % 2],
                    "question": "Is it? Please answer yes or no."}),
    ],
    "mmstar": [("mmstar.parquet", "mmstar", 4, _inline)],
    "vqav2": [
        ("data/validation-00000-of-00001.parquet", "vqav2", 3,
         lambda i: {"question_id": 100 + i, "image_id": i // 2, "answer_type": "other", "answers": [
             {"answer": ["dog", "cat"][k > 6], "answer_confidence": "yes", "answer_id": k} for k in range(10)]}),
    ],
    "vizwiz": [
        ("data/val-00000-of-00001.parquet", "vizwiz_vqa", 3,
         lambda i: {"question_id": f"v{i}", "answers": ["unanswerable"] * 6 + ["dog"] * 4}),
    ],
    "seed_bench_image": [("data/test-00000-of-00001.parquet", "seed_bench_image", 5, _seed)],
    "mmmu": [("validation-00000-of-00001.parquet", "mmmu", 3, _mmmu)],
    "mmvet": [
        ("data/test-00000-of-00001.parquet", "mmvet", 3,
         lambda i: {"question_id": f"v1_{i}", "capability": "ocr,math", "answer": "3<AND>4"}),
    ],
    "ai2d": [
        ("data/test-00000-of-00001.parquet", "ai2d", 3,
         lambda i: {"options": ["sun", "moon", "A"], "answer": str(i)}),
    ],
    "chartqa": [
        ("data/test-00000-of-00001.parquet", "chartqa", 4,
         lambda i: {"type": ["human_test", "augmented_test"][i // 2], "answer": "14"}),
    ],
    "realworldqa": [("data/test-00000-of-00001.parquet", "realworldqa", 4, _real)],
    "infovqa": [
        ("InfographicVQA/validation-00000-of-00001.parquet", "infovqa", 3, lambda i: {"answers": ["14", "fourteen"]}),
    ],
    "ocrbench": [
        ("data/test-00000-of-00001.parquet", "ocrbench", 3,
         lambda i: {"answer": ["CENTRE"], "dataset": ["IIIT5K", "HME100k"][i % 2]}),
    ],
    "hallusionbench": [("data/image-00000-of-00001.parquet", "hallusionbench", 4, _figure)],
    "charxiv_reasoning": [
        ("val.parquet", "charxiv_reasoning", 4,
         lambda i: {"reasoning_a": ["ACC", "(b)", "7", "0.25"][i], "reasoning_a_type": i + 1,
                    "reasoning_q_source": i + 1}),
    ],
    "mia_bench": [
        ("data/test-00000-of-00001.parquet", "mia_bench", 2,
         lambda i: {"components": ["rhyme", "six lines"], "component_weight": [4, 6], "type": "poem"}),
    ],
}  # fmt: skip
"""As `tests.benchmarks.parquet.LOCAL`, which has these, too."""
