"""Multiple choice as VLMEvalKit scores it: rules first, then a judge."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from string import ascii_uppercase

from harness.benchmarks.base import Item
from harness.benchmarks.scoring.verdict import Ask, JudgedRule, Verdict, settle

REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
FAILED = "Failed to obtain answer via API"
PART = r"[^\s.()\[\],:;!*#{}]"
"""What words are made of; all else separates them."""

LETTER = re.compile(rf"(?<!{PART})[A-Z](?!{PART})")
JUDGE = """\
Match an answer to the options of a single-choice question: say which option the answer means. If no option is close \
to what it means, say Z. Reply with one capital letter, that of an option or Z, and nothing else.

Question: What is the main object in the image?
Options: A. teddy bear B. rabbit C. cat D. dog
Answer: a cute teddy bear
Letter: A

Question: What is the main object in the image?
Options: A. teddy bear B. rabbit C. cat D. dog
Answer: Spider
Letter: Z

Question: {question}
Options: {options}
Answer: {answer}
Letter: """


def can_infer(answer: str, options: Sequence[str]) -> str | None:
    """The letter that is clear without a judge; "Z" for none of the options.

    Source: VLMEvalKit, vlmeval/utils/matching_util.py, can_infer: the only letter among the words, in one of the last
    four, else the bold one of "answer is **B**" (since a67ace50), else the only option whose text occurs.
    """
    letters = ascii_uppercase[: len(options)]
    if FAILED in answer:
        return _by_text(answer, options)
    if any(refusal in answer for refusal in REFUSALS):
        return "Z"
    said: set[str] = set(LETTER.findall(answer))
    found = said & set(letters)
    if len(found) == 1:
        letter = found.pop()
        words = re.findall(rf"{PART}+", answer)
        if words.index(letter) > len(words) - 5:
            return letter
    elif not found and "Z" in said:
        return "Z"
    bold = re.search(r"[Aa]nswer is\s*\*\*([A-Z])\*\*", answer)
    if bold and bold[1] in letters:
        return bold[1]
    return _by_text(answer, options)


def _by_text(answer: str, options: Sequence[str]) -> str | None:
    if len(answer) > 2 * sum(map(len, options)):
        return None
    lower = answer.lower()
    found = [letter for letter, text in zip(ascii_uppercase, options, strict=False) if text.lower() in lower]
    return found[0] if len(found) == 1 else None


def kit(item: Item, answer: str, ask: Ask | None, rule: str = "mcq.vlmevalkit") -> Verdict:
    """VLMEvalKit's choice: what can be inferred, else what a judge says, else a random letter or Z.

    Without a judge (its `exact_matching`) an answer that cannot be inferred is Z, which is wrong.
    Source: vlmeval/dataset/utils/multiple_choice.py, extract_answer_from_item. There the guess is unseeded, and up to
    three tries ask the same at the same temperature, 0; equal questions have equal replies here, so one is asked. The
    wording of the question to the judge is ours; it asks the same.
    """
    options: list[str] = item.meta["options"]
    letter = can_infer(answer, options)
    if letter is None and ask is not None:
        listed = " ".join(f"{letter}. {text}" for letter, text in zip(ascii_uppercase, options, strict=False))
        prompt = JUDGE.format(question=item.meta["question"], options=listed, answer=answer.strip())
        letter = can_infer(ask(prompt), options)
    said = letter
    if letter is None:
        letter = random.Random(item.id).choice([*ascii_uppercase[: len(options)], "Z"]) if ask else "Z"
    return settle(rule, letter, letter == item.answer, guessed=said in (None, "Z"))


def marked(answer: str) -> str:
    """What a chain of thought answers: the only capital letter of its last line "Answer: ...", else that line's rest.

    Source: VLMEvalKit 944ee120, vlmeval/dataset/image_mcq.py, MMMUProDataset.cot_postproc.
    """
    lines = [line.strip() for line in answer.strip().split("\n")]
    tails = [line.removeprefix("Answer:") for line in lines if line.startswith("Answer:")]
    if not tails:
        return answer
    found = {sign for sign in tails[-1] if sign in ascii_uppercase}
    return found.pop() if len(found) == 1 else tails[-1]


def kit_cot(item: Item, answer: str, ask: Ask | None) -> Verdict:
    """The same for MMMU-Pro with reasoning: the last line "Answer: ..." alone is scored, if there is one."""
    return kit(item, marked(answer), ask, "mmmu_pro.vlmevalkit_cot")


JUDGED: dict[str, JudgedRule] = {"mcq.vlmevalkit": kit, "mmmu_pro.vlmevalkit_cot": kit_cot}
