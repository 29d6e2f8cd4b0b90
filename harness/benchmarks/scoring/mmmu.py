"""Multiple choice as MMMU and MMMU-Pro parse it, and MMMU's open questions."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from string import ascii_uppercase

from harness.benchmarks.base import Item
from harness.benchmarks.scoring.verdict import Rule, Verdict, settle

Guess = Callable[[Sequence[str]], str]
"""Takes one of the letters, where an official rule guesses."""

MMMU = ("({})", " {} ")
MMMU_PRO = ("({})", "{} ", "{}.")
"""Forms of a letter, in the order in which they are looked for."""

NUMBERS = (
    r"-?\b\d{1,3}(?:,\d{3})+\b",  # 20,000,000
    r"-?(?<!\d)\d+(?:\.\d+)?[eE][+-]?\d+",  # 2e-3
    r"-?(?:(?<!\d)(?:\d*\.\d+|\d+\b)|\.\d+)(?![eE][+-]?\d)(?![,\d])",
)
KEYS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")


def guess(item: Item) -> Guess:
    """A guess of the item's own: the same in every run, whatever is scored before it."""
    return random.Random(item.id).choice


def named(reply: str, options: Sequence[str], forms: Sequence[str]) -> str | None:
    """The letter that a reply names, or the letter of the option whose text it has; None if there is neither.

    Source: MMMU, eval/utils/eval_utils.py, parse_multi_choice_response. The last of several letters wins; for all
    forms but the bracketed one its place is that of the letter between spaces, which may be nowhere.
    """
    for sign in ",.!?;:'":
        reply = reply.strip(sign)
    reply = f" {reply} "
    letters = ascii_uppercase[: len(options)]
    for form in forms:
        if found := [letter for letter in letters if form.format(letter) in reply]:
            place = form if form == "({})" else " {} "
            return max(found, key=lambda letter: reply.rfind(place.format(letter)))
    lower = reply.lower()
    texts = {letter: text.lower() for letter, text in zip(letters, options, strict=False)}  # none are beyond Z
    found = [letter for letter in letters if texts[letter] in lower] if len(reply.split()) > 5 else []
    return max(found, key=lambda letter: lower.rfind(texts[letter])) if found else None


def after_marker(reply: str, options: Sequence[str]) -> str | None:
    """The only option letter that occurs, even within words, after the last "Answer:" (MMMU-Pro, evaluate.py)."""
    _, marker, tail = reply.rpartition("Answer:")
    found = [letter for letter in ascii_uppercase[: len(options)] if letter in tail] if marker else []
    return found[0] if len(found) == 1 else None


def _letter(rule: str, item: Item, said: str | None) -> Verdict:
    letter = said or guess(item)(ascii_uppercase[: len(item.meta["options"])])
    return settle(rule, letter, letter == item.answer, guessed=said is None)


def mmmu_pro(item: Item, answer: str) -> Verdict:
    """MMMU-Pro's own parser: what follows the last "Answer:", else as MMMU; nothing found is a random letter.

    Source: MMMU repository, mmmu-pro/evaluate.py, parse_multi_choice_response. There the guess is unseeded.
    """
    options = item.meta["options"]
    return _letter("mmmu_pro.official", item, after_marker(answer, options) or named(answer, options, MMMU_PRO))


def mmmu_pro_lmms(item: Item, answer: str) -> Verdict:
    """lmms-eval's parser, with the answers that its own prompts ask for.

    Source: lmms-eval 0.7.3, tasks/mmmu_pro/utils.py. Its faults are not here: it does not read "Answer: B" although its
    prompts ask for that, compares whole raw replies in the vision sets, and guesses without a seed of its own.
    """
    options = item.meta["options"]
    marked = re.findall(rf"Answer:\W*([A-{ascii_uppercase[: len(options)][-1]}])\b", answer)
    return _letter("mmmu_pro.lmms", item, marked[-1] if marked else named(answer, options, MMMU_PRO))


def mmmu(item: Item, answer: str) -> Verdict:
    """MMMU's parser; an item without options is an open question.

    Source: MMMU, eval/utils/eval_utils.py. There guesses come from one stream for the whole run (seed 42), so that they
    depend on what was scored before; here every item has its own.
    """
    if options := item.meta.get("options"):
        return _letter("mmmu.official", item, named(answer, options, MMMU))
    said = stated(answer)
    texts = [value for value in said if isinstance(value, str)]
    right = any(
        value in said or (isinstance(value, str) and any(value in text for text in texts))
        for reference in item.meta.get("answers") or [item.answer]
        for value in normal(reference)
    )
    return settle("mmmu.official", " | ".join(map(str, said)) if answer.strip() else None, right)


def normal(text: str) -> list[str | float]:
    """A number rounded to two digits, else lower-case text; one character needs a space beside it (normalize_str)."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def stated(reply: str) -> list[str | float]:
    """What an open reply may state: the shortest ends of its sentences after key words, and the numbers in them.

    Source: parse_open_response. The whole reply is in lower case before it is split where capitals follow, so that only
    lines are split.
    """
    lines = reply.strip().strip(".").lower().split("\n")
    ends = []
    for i, line in enumerate(lines, 1):
        shortest = ""
        for key in (*KEYS, "=") if i == len(lines) else KEYS:
            tail = line.rpartition(key)[2].strip()
            if key in line and (not shortest or len(tail) < len(shortest)):
                shortest = tail
        if shortest and shortest not in ",.!?;:'":
            ends.append(shortest)
    ends = ends or ["\n".join(lines)]
    numbers = [number for end in ends for pattern in NUMBERS for number in re.findall(pattern, end)]
    return list(dict.fromkeys(value for text in (*ends, *numbers) for value in normal(text)))


RULES: dict[str, Rule] = {
    "mmmu.official": mmmu,
    "mmmu_pro.official": mmmu_pro,
    "mmmu_pro.lmms": mmmu_pro_lmms,
}
