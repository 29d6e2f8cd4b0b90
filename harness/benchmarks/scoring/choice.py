"""Multiple choice as lmms-eval and LLaVA score it: MMBench, MMStar, SEED-Bench, AI2D, RealWorldQA, MMMU."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from string import ascii_uppercase, punctuation

from harness.benchmarks.base import Item
from harness.benchmarks.scoring import lenient, mcq_kit, mmmu, reasoning, vqa
from harness.benchmarks.scoring.verdict import Ask, JudgedRule, Rule, Verdict, settle

FOUR = "ABCD"
PHRASES = (
    "the answer is", "answer is", "the correct answer is", "correct answer is", "the best answer is", "best answer is",
    "the correct option is", "correct option is", "the best option is", "best option is", "the choice is", "choice is",
    "the correct choice is", "correct choice is", "i choose", "i select", "i pick", "my answer is", "my choice is",
    "옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは",
)  # fmt: skip
FORMS = ("({})", "{}.", "{}:", "{})", "{} ", "{}")
"""Of a letter that is neither first, last nor after a phrase, the surest first."""

WRAPS = [("", "."), ("", ","), ("", ":"), ("", ")"), ("", ")."), ("(", ")"), ("(", ").")] + [
    (":", end) for end in ("", ",", ".", ")", ").")
]
"""What stands around a letter that is a word of its own."""


def extracted(reply: str, letters: str = FOUR) -> str | None:
    """The letter by which lmms-eval's shared extractor takes a reply.

    The letter that begins the reply, else that ends it; else the furthest of those that follow a phrase such as "answer
    is", also within words; else the last one in the surest form; None if there is none.
    Source: lmms-eval 0.7.3, tasks/_task_utils/mcq_extract.py, extract_mcq_answer.
    """
    text = reply.strip()
    for sign in ",.!?;:'\"":
        text = text.strip(sign)
    bare, text = text.strip(), f" {text} "
    for letter, beside in ((bare[:1], bare[1:2]), (bare[-1:], bare[-2:-1])):
        if letter and letter in letters and not beside.isalpha():
            return letter
    lower = text.lower()
    ends = [place + len(phrase) for phrase in PHRASES if (place := lower.find(phrase)) >= 0]
    if found := [(place, letter) for end in ends for letter in letters if (place := text.find(letter, end)) >= 0]:
        return max(found, key=lambda one: one[0])[1]
    for form in FORMS:
        if said := [letter for letter in letters if form.format(letter) in text]:
            return max(said, key=lambda letter: text.rfind(form.format(letter)))
    return None


def mmstar_lmms(item: Item, answer: str) -> Verdict:
    """The letter A to D of lmms-eval's extractor (lmms-eval 0.7.3, tasks/mmstar/utils.py, exact_match)."""
    letter = extracted(answer)
    return settle("mmstar.lmms", letter, letter == item.answer)


def realworldqa_lmms(item: Item, answer: str) -> Verdict:
    """The same where the reference is a letter, else equality but for case and final full stops.

    Source: lmms-eval 0.7.3, tasks/realworldqa/utils.py, realworldqa_process_results.
    """
    if item.answer.upper() in tuple(FOUR):
        letter = extracted(answer)
        return settle("realworldqa.lmms", letter, letter == item.answer.upper())
    said = answer.lower().strip().rstrip(".")
    return settle("realworldqa.lmms", said or None, said == item.answer.lower())


def realworldqa_kit(item: Item, answer: str, ask: Ask | None) -> Verdict:
    """VLMEvalKit's choice where there are options, else equality as `realworldqa.lmms` has it."""
    if item.meta.get("options"):
        return mcq_kit.kit(item, answer, ask, "realworldqa.vlmevalkit")
    return replace(realworldqa_lmms(item, answer), rule="realworldqa.vlmevalkit")


def realworldqa_lenient(item: Item, answer: str) -> Verdict:
    """The letter in any reasonable form where there are options, else the short answer in any."""
    rule = lenient.lenient if item.meta.get("options") else vqa.gqa_lenient
    return replace(rule(item, answer), rule="realworldqa.lenient")


def ai2d_lmms(item: Item, answer: str) -> Verdict:
    """A capital letter and a dot at the start, else all of the reply but case and punctuation must be the letter.

    Source: lmms-eval 0.7.3, tasks/ai2d (MultiChoiceRegexFilter, then exact_match).
    """
    begins = re.match(r"\s*([A-Z])\.", answer)
    said = (begins[1] if begins else answer).strip().translate(str.maketrans("", "", punctuation)).upper()
    letter = said if len(said) == 1 and said in ascii_uppercase else None
    return settle("ai2d.lmms", letter, letter == item.answer)


def seed_llava(item: Item, answer: str) -> Verdict:
    """The whole reply is the letter (LLaVA, scripts/convert_seed_for_submission.py, eval_single)."""
    letter = answer if re.fullmatch("[A-D]", answer) else None
    return settle("seed_bench.llava", letter, letter == item.answer)


def seed_lmms(item: Item, answer: str) -> Verdict:
    """The first character is the letter, in either case (lmms-eval 0.7.3, tasks/seedbench/utils.py)."""
    letter = answer.strip()[:1].upper()
    return settle("seed_bench.lmms", letter if re.fullmatch("[A-Z]", letter) else None, letter == item.answer)


def prefetched(answer: str, options: Sequence[str]) -> str | None:
    """The letter that lmms-eval reads from an answer to MMBench before it asks a judge.

    The only one of A to E among the words, unless there are more than three words and A is one of them; else the only
    one with the same signs around it; else the only option whose text occurs.
    Source: lmms-eval 0.7.3, tasks/mmbench/mmbench_evals.py, can_infer.
    """
    if mcq_kit.FAILED not in answer:
        words = set(parts := answer.split())
        article = "A" in words and len(parts) > 3
        for before, after in [*([] if article else [("", "")]), *WRAPS]:
            if len(found := [letter for letter in "ABCDE" if f"{before}{letter}{after}" in words]) == 1:
                return found[0]
    said = [letter for letter, text in zip(FOUR, options, strict=False) if text.lower() in answer.lower()]
    return said[0] if len(said) == 1 else None


def mmbench_lmms(item: Item, answer: str, ask: Ask | None) -> Verdict:
    """What can be read, else what a judge says, else a random letter of the options or E.

    Without a judge, as in the task mmbench_en_dev_static, what the shared extractor reads. Source: lmms-eval 0.7.3,
    tasks/mmbench/mmbench_evals.py. There the guess depends on what was scored before. The judge's question is in our
    words.
    """
    options: list[str] = item.meta["options"]
    letters = ascii_uppercase[: len(options)]
    letter = prefetched(answer, options)
    guessed = False
    if letter is None and ask is None:
        letter = extracted(answer, letters[: len(FOUR)])
    elif letter is None and ask is not None:
        listed = " ".join(f"{name}. {text}" for name, text in zip(letters, options, strict=True))
        reply = ask(mcq_kit.JUDGE.format(question=item.meta["question"], options=listed, answer=answer.strip()))
        letter = "Z" if reply.strip()[:1] == "Z" else prefetched(reply, options)
        guessed = letter in (None, "Z")
        letter = letter or random.Random(item.id).choice([*letters, "E"])
    return settle("mmbench.lmms", letter, letter == item.answer, guessed=guessed)


def mmmu_lmms(item: Item, answer: str) -> Verdict:
    """MMMU's parser with MMMU-Pro's forms of letters (lmms-eval 0.7.3, tasks/_task_utils/mmmu_mcq_utils.py)."""
    if not (options := item.meta.get("options")):
        return replace(mmmu.mmmu(item, answer), rule="mmmu.lmms")
    said = mmmu.named(answer, options, mmmu.MMMU_PRO)
    letter = said or mmmu.guess(item)(ascii_uppercase[: len(options)])
    return settle("mmmu.lmms", letter, letter == item.answer, guessed=said is None)


def mmmu_lenient(item: Item, answer: str) -> Verdict:
    """The letter in any reasonable form where there are options, else any of the answers in any."""
    if item.meta.get("options"):
        return replace(lenient.lenient(item, answer), rule="mmmu.lenient")
    known = [replace(item, answer=reference) for reference in item.meta["answers"]]
    found = [reasoning.lenient(one, answer) for one in known]
    return replace(max(found, key=lambda verdict: verdict.correct is True), rule="mmmu.lenient")


def mmmu_kit(item: Item, answer: str, ask: Ask | None) -> Verdict:
    """VLMEvalKit's choice; an open question becomes one of its answer and "Other Answers".

    Source: VLMEvalKit, vlmeval/dataset/utils/multiple_choice.py, MMMU_preproc.
    """
    if not item.meta.get("options"):
        item = replace(item, answer="A", meta={**item.meta, "options": [item.answer, "Other Answers"]})
    return mcq_kit.kit(item, answer, ask, "mmmu.vlmevalkit")


RULES: dict[str, Rule] = {
    "mmstar.lmms": mmstar_lmms,
    "realworldqa.lmms": realworldqa_lmms,
    "realworldqa.lenient": realworldqa_lenient,
    "ai2d.lmms": ai2d_lmms,
    "seed_bench.llava": seed_llava,
    "seed_bench.lmms": seed_lmms,
    "mmmu.lmms": mmmu_lmms,
    "mmmu.lenient": mmmu_lenient,
}
JUDGED: dict[str, JudgedRule] = {
    "mmbench.lmms": mmbench_lmms,
    "realworldqa.vlmevalkit": realworldqa_kit,
    "mmmu.vlmevalkit": mmmu_kit,
}
