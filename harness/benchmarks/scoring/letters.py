"""Multiple choice: letters read from replies, by the rules of the benchmarks and of evaluation kits."""

from __future__ import annotations

import re

from harness.benchmarks.base import Item
from harness.benchmarks.scoring import lenient, mcq_kit, mmmu
from harness.benchmarks.scoring.verdict import JudgedRule, Rule, Verdict, settle


def scienceqa_llava(item: Item, answer: str) -> Verdict:
    """A letter A to E alone, "X. ..." at the start, or exactly one "The answer is X."; anything else is wrong.

    Source: LLaVA, llava/eval/eval_science_qa.py. A letter beyond the item's options is read, and wrong.
    """
    begins = re.fullmatch(r"([A-E])(?:\. .*)?", answer, re.S)
    stated = re.findall(r"The answer is ([A-Z]).", answer)
    letter = begins[1] if begins else stated[0] if len(stated) == 1 else None
    return settle("scienceqa.llava", letter, letter == item.answer)


def scienceqa_lmms(item: Item, answer: str) -> Verdict:
    """A letter alone, of either case, or a capital one and a dot at the start; anything else is wrong.

    Source: lmms-eval 0.7.3, tasks/scienceqa/utils.py, sqa_process_results.
    """
    said = re.fullmatch(r"([A-Za-z])|([A-Z])\..*", answer.strip(), re.S)
    letter = said[0][0].upper() if said else None
    return settle("scienceqa.lmms", letter, letter == item.answer)


RULES: dict[str, Rule] = {
    **mmmu.RULES,
    **lenient.RULES,
    "scienceqa.llava": scienceqa_llava,
    "scienceqa.lmms": scienceqa_lmms,
}
JUDGED: dict[str, JudgedRule] = mcq_kit.JUDGED
