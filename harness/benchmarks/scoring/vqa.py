"""Short free answers: TextVQA, VQAv2, VizWiz, GQA."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import chain
from string import punctuation

from harness.benchmarks.base import Item
from harness.benchmarks.scoring.spans import LONGEST
from harness.benchmarks.scoring.verdict import Rule, Verdict, settle

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {"none": "0"} | {word: str(i) for i, word in enumerate(WORDS)}
APOSTROPHES = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
CONTRACTIONS = {
    word[: mark.start()] + word[mark.end() :]: word for word in APOSTROPHES.split() for mark in re.finditer("'", word)
} | {"somebody'd": "somebodyd"}
"""Words with one apostrophe left out; the last entry is the other way round in the source, too."""

ANSWER = re.compile(r"(?i)\banswer\b[^.\n]{0,40}?(?:\bis\b|:)\s*([^\n]+)|<answer>([^<]*)|\\boxed\{([^{}]*)\}")
SHORT = 12
"""Words of a reply that is short enough to be searched for a reference."""


def without_punctuation(text: str) -> str:
    """VQA's handling of signs (`process_punctuation`).

    A sign goes away if it stands beside a space somewhere, or if the text has a number with a comma; else it becomes a
    space. Full stops go unless a digit follows; at most 32 of them, as the source passes a flag in place of a count.
    """
    joined = re.search(r"\d,\d", text)
    out = text
    for sign in ';/[]"{}()=+\\_-><@`,?!':
        out = out.replace(sign, "" if joined or f"{sign} " in text or f" {sign}" in text else " ")
    return re.sub(r"\.(?!\d)", "", out, count=32)


def kit_normal(text: str) -> str:
    """An answer as VLMEvalKit compares it: signs, number words, articles, contractions.

    Source: VLMEvalKit, vlmeval/dataset/utils/vqa_eval.py, process_answer.
    """
    text = without_punctuation(text.replace("\n", " ").replace("\t", " ").strip())
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ("a", "an", "the"))


def evalai_normal(text: str) -> str:
    """An answer as EvalAI compares it: as VLMEvalKit, but "'s" is a word, and commas and question marks go first.

    Source: lmms-eval 0.7.3, tasks/_task_utils/vqa_eval_metric.py, EvalAIAnswerProcessor (from MMF and Pythia).
    """
    return kit_normal(text.lower().replace(",", "").replace("?", "").replace("'s", " 's"))


def soft(said: str, references: Sequence[str]) -> float:
    """Soft accuracy: the mean, over leaving out one reference each, of min(1, equal others / 3)."""
    equal = [reference == said for reference in references]
    return sum(min(1.0, (sum(equal) - own) / 3) for own in equal) / len(equal)


def _soft(rule: str, item: Item, answer: str, normal: Callable[[str], str]) -> Verdict:
    return _verdict(rule, answer, normal(answer), [normal(reference) for reference in item.meta["answers"]])


def _verdict(rule: str, answer: str, said: str, references: Sequence[str]) -> Verdict:
    value, blank = soft(said, references), not re.search(r"\w", answer)  # "A" is an answer that normalisation empties
    return Verdict(value == 1.0, value, None if blank else said, rule, unparsed=blank)


def textvqa_lmms(item: Item, answer: str) -> Verdict:
    """Soft accuracy after EvalAI's normalisation (lmms-eval 0.7.3, tasks/textvqa/utils.py, textvqa_process_results)."""
    return _soft("textvqa.lmms", item, answer, evalai_normal)


def textvqa_llava(item: Item, answer: str) -> Verdict:
    """The same value as `textvqa.lmms`; the source refuses questions that do not have ten references.

    Source: LLaVA, llava/eval/m4c_evaluator.py, TextVQAAccuracyEvaluator.
    """
    return _soft("textvqa.llava", item, answer, evalai_normal)


def vizwiz_lmms(item: Item, answer: str) -> Verdict:
    """The same value as `textvqa.lmms` (lmms-eval 0.7.3, tasks/vizwiz_vqa/utils.py, vizwiz_vqa_process_results)."""
    return _soft("vizwiz.lmms", item, answer, evalai_normal)


def vqav2_lmms(item: Item, answer: str) -> Verdict:
    """The same value as `vqa.vlmevalkit` (lmms-eval 0.7.3, tasks/vqav2/utils.py, vqav2_process_results)."""
    return _soft("vqav2.lmms", item, answer, kit_normal)


def vqa_kit(item: Item, answer: str) -> Verdict:
    """Soft accuracy after VQA's normalisation (VLMEvalKit, vlmeval/dataset/utils/vqa_eval.py, vqa_score)."""
    return _soft("vqa.vlmevalkit", item, answer, kit_normal)


def gqa_llava(item: Item, answer: str) -> Verdict:
    """Equality after dropping final full stops and case of the reply (LLaVA, scripts/convert_gqa_for_eval.py)."""
    said = answer.rstrip(".").lower()
    return settle("gqa.llava", said or None, said == item.answer)


def gqa_lmms(item: Item, answer: str) -> Verdict:
    """Equality but for case and punctuation (lmms-eval 0.7.3, tasks/gqa/gqa.yaml, exact_match)."""
    drop = str.maketrans("", "", punctuation)
    said = answer.strip().lower().translate(drop)
    return settle("gqa.lmms", said or None, said == item.answer.lower().translate(drop))


def gqa_kit(item: Item, answer: str) -> Verdict:
    """Equality of stripped lower-case texts (VLMEvalKit, vlmeval/dataset/utils/vqa_eval.py, accuracy)."""
    said = answer.strip().lower()
    return settle("gqa.vlmevalkit", said or None, said == item.answer.strip().lower())


def read(answer: str, references: Sequence[str]) -> str:
    """What a reply answers, normalised: the last stated answer, a reference in a short reply, else all of it.

    A reference counts if the statement or short reply has it as whole words, and no other one but parts of it.
    """
    stated = [part for part in chain.from_iterable(ANSWER.findall(answer[-LONGEST:])) if part.strip()]
    said = evalai_normal(stated[-1] if stated else answer)
    if said in references or len(said.split()) > SHORT:
        return said
    found = {reference for reference in references if reference and f" {reference} " in f" {said} "}
    whole = {a for a in found if not any(f" {a} " in f" {b} " for b in found - {a})}
    return whole.pop() if len(whole) == 1 else said


def vqa_lenient(item: Item, answer: str) -> Verdict:
    """Soft accuracy of what the reply answers in any reasonable form."""
    references = [evalai_normal(reference) for reference in item.meta["answers"]]
    return _verdict("vqa.lenient", answer, read(answer, references), references)


def gqa_lenient(item: Item, answer: str) -> Verdict:
    """Whether the reply answers the reference in any reasonable form."""
    reference = evalai_normal(item.answer)
    said = read(answer, [reference])
    return settle("gqa.lenient", said or None, said == reference)


RULES: dict[str, Rule] = {
    "textvqa.lmms": textvqa_lmms,
    "textvqa.llava": textvqa_llava,
    "vizwiz.lmms": vizwiz_lmms,
    "vqav2.lmms": vqav2_lmms,
    "vqa.vlmevalkit": vqa_kit,
    "gqa.llava": gqa_llava,
    "gqa.lmms": gqa_lmms,
    "gqa.vlmevalkit": gqa_kit,
    "vqa.lenient": vqa_lenient,
    "gqa.lenient": gqa_lenient,
}
