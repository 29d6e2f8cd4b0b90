"""MM-Vet, MIA-Bench and CharXiv: free answers that a judge grades."""

from __future__ import annotations

from harness.benchmarks.data import Source
from harness.benchmarks.errors import DataError
from harness.benchmarks.rows import Row
from harness.benchmarks.sets.base import Facts, Set, Version, text

MMVET_HUB, MIA_HUB, CHARXIV_HUB = "lmms-lab-encoder/MMVet", "lmms-lab-encoder/MIA-Bench", "princeton-nlp/CharXiv"


def _mmvet(row: Row) -> Facts:
    needed = text(row, "capability")
    meta = {"question": text(row, "question"), "capabilities": [name.strip() for name in needed.split(",")]}
    return Facts(id=text(row, "question_id"), answer=text(row, "answer"), category=needed, meta=meta)


MMVET = Set(
    versions={"all": Version(218, (Source(MMVET_HUB, "default", ("test",)),), "mmvet")},
    columns={"question_id": "text", "image": "picture", "question": "text", "answer": "text", "capability": "text"},
    facts=_mmvet,
)


def _mia_bench(row: Row) -> Facts:
    """There is no reference: the components of the instruction stand for it."""
    components, weights = [str(c) for c in row["components"] or []], [int(w) for w in row["component_weight"] or []]
    if len(components) != len(weights):
        raise DataError(f"has {len(components)} components, but {len(weights)} weights")
    meta = {"question": text(row, "instruction"), "components": components, "weights": weights}
    return Facts(id=f"{row['_row']:03d}", answer="; ".join(components), category=text(row, "type"), meta=meta)


MIA_BENCH = Set(
    versions={"all": Version(400, (Source(MIA_HUB, "default", ("test",)),), "mia_bench")},
    columns={
        "image": "picture", "instruction": "text", "type": "text", "components": "list", "component_weight": "list",
    },
    facts=_mia_bench,
)  # fmt: skip

ASKED = {
    1: (
        "Your final answer must be grounded to some text that is explicitly written and relevant to the question in "
        "the chart.",
        "If you need to answer multiple terms, separate them with commas.",
        "Unless specified in the question (such as answering with a letter), you are required to answer the full names "
        "of subplots and/or labels by default.",
    ),
    2: (
        "If there are options in the question, your final answer must conform to one of the options.",
        "If there are additional instructions in the question, follow them accordingly.",
        "If there are neither options nor additional instructions, you are allowed to respond with a short phrase "
        "only.",
    ),
    3: (
        "Your final answer must be grounded to a number that is exlicitly written and relevant to the question in the "
        "chart, even if it's an approximate value.",
        "You are allowed to extract numbers within some text when needed.",
    ),
}
"""What CharXiv adds to a question by the type of its answer: text in the chart, text in general, a number in the chart.

With a number in general, which is type 4, it says how many decimals there are.
"""


def _charxiv(row: Row) -> Facts:
    question, answer, kind = text(row, "reasoning_q"), text(row, "reasoning_a"), int(row["reasoning_a_type"])
    if kind not in (*ASKED, 4):
        raise DataError(f"reasoning_a_type is {kind}, not 1, 2, 3 or 4")
    decimals = len(answer.partition(".")[2])
    number = f"a number with {decimals} decimal places" if decimals else "an exact integer"
    lines = ASKED.get(kind, (f"Your final answer must be {number}.",))
    asked = "\n    * ".join([question, *lines])
    meta = {"question": question, "asked": asked, "type": kind}
    return Facts(id=f"{row['_row']:04d}", answer=answer, category=f"type {kind}", meta=meta)


CHARXIV_REASONING = Set(
    versions={
        "val": Version(
            1000, (Source(CHARXIV_HUB, "default", ("validation",), files=("val",)),), "charxiv_val_reasoning"
        )
    },
    columns={"reasoning_q": "text", "reasoning_a": "text", "reasoning_a_type": "number", "image": "picture"},
    facts=_charxiv,
)
