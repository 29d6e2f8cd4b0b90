"""DynaMath: typed short answers, and the worst case over the variants of a question (arXiv 2411.00836)."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence

from harness.benchmarks.base import Item
from harness.benchmarks.scoring.clusters import by_cluster, notes
from harness.benchmarks.scoring.means import judged, mean
from harness.benchmarks.scoring.verdict import Ask, JudgedRule, Measure, Metric, Rule, Scored, Verdict, settle

TOLERANCE = 0.001
VARIANTS = 10
SYSTEM = "You bring free-form answers into the short form that an instruction asks for."
FORMS = {
    "multiple choice": "Write the letter of the chosen option, such as A, B, C or D, in a single line.",
    "float": "Write a floating-point number with three decimals in a single line.",
}
TEXT = "Write a short answer in a single line. Numbers with decimals in it get three decimals."


def rule(item: Item, answer: str) -> Verdict:
    """The "short answer" of a JSON reply, else the reply itself, read and compared by the type of the answer.

    Floats differ by at most 0.001; letters are equal; a text is part of the reference. What cannot be read is wrong,
    but for a choice whose letter is among the first three characters. A "short answer" may be a number, too.
    Source: VLMEvalKit, vlmeval/dataset/dynamath.py, DynaMath_auxeval up to where it asks a judge.
    """
    return _verdict("dynamath.rule", item, answer, read(item, answer))


def vlmevalkit(item: Item, answer: str, ask: Ask | None) -> Verdict:
    """The same, but a judge brings what cannot be read into the asked form, in our words; what it says is read."""
    said = read(item, answer)
    if said is None and ask is not None:
        form = FORMS.get(kind_of(item), TEXT)
        said = parse(ask(f"Free-form answer: {_body(answer)}\nInstruction: {form}", system=SYSTEM).strip(), item)
    return _verdict("dynamath.vlmevalkit", item, answer, said)


def read(item: Item, answer: str) -> str | None:
    """The answer in the form of its type, of the JSON object if there is one, else of the whole reply."""
    body = _body(answer)
    try:
        short = json.loads(body, strict=False)["short answer"]
    except (ValueError, KeyError, TypeError, RecursionError):
        short = None
    said = None if short is None else parse(str(short), item)
    return parse(body, item) if said is None else said


def parse(text: str, item: Item) -> str | None:
    """A number ("2.5", "2π rad"), a letter (alone, or the only one of A to E in the text), or the text itself."""
    kind = kind_of(item)
    if kind == "float":
        return _number(text.strip())
    if kind == "multiple choice":
        found = [letter for letter in "ABCDE" if letter in text.upper()]
        return text.upper() if len(text) == 1 else found[0] if len(found) == 1 else None
    return text.strip() or None


def kind_of(item: Item) -> str:
    """The type of the answer; a number that cannot be read as one is a text, where the source fails."""
    kind = str(item.meta["answer_type"])
    return "text" if kind == "float" and _number(item.answer.strip()) is None else kind


def _number(text: str) -> str | None:
    word = text.partition(" ")[0]
    factor, pi, _ = word.partition("π")
    try:
        return str(float(factor) * (math.pi if pi else 1))
    except ValueError:
        return None


def _body(answer: str) -> str:
    """From the first to the last brace, without backslashes, which LaTeX puts into JSON unescaped."""
    begin, end = answer.find("{"), answer.rfind("}")
    return (answer[begin : end + 1] if 0 <= begin < end else answer).replace("\\", "")


def _verdict(name: str, item: Item, answer: str, said: str | None) -> Verdict:
    kind, reference = kind_of(item), item.answer.strip()
    if said is None and kind == "multiple choice" and reference and reference in _body(answer)[:3].upper():
        return settle(name, reference, True, guessed=True)
    if said is None:
        return settle(name, None, False)
    if kind == "float":
        return settle(name, said, abs(float(said) - float(_number(reference) or "nan")) <= TOLERANCE)
    right = said == reference if kind == "multiple choice" else said.lower() in reference.lower()
    return settle(name, said, right)


def worst(samples: Sequence[Scored]) -> Measure:
    """Share of the questions with every variant right, among those with as many variants as most have."""
    known, note = judged(samples)
    groups = by_cluster(known)
    if not groups:
        return Measure(None, 0, note)
    size, _ = max(Counter(map(len, groups)).items(), key=lambda kind: (kind[1], kind[0]))
    full = [group for group in groups if len(group) == size]
    left = len(groups) - len(full)
    odd = f"{left} of {len(groups)} questions do not have {size} variants and are left out" if left else ""
    few = f"questions have {size} variants, not {VARIANTS}" if size != VARIANTS else ""
    same = "one variant each: this is the average, not a worst case" if size == 1 else few
    right = sum(all(s.verdict.correct for s in group) for group in full)
    return Measure(right / len(full), len(full), notes(note, odd, same))


RULES: dict[str, Rule] = {"dynamath.rule": rule}
JUDGED: dict[str, JudgedRule] = {"dynamath.vlmevalkit": vlmevalkit}
METRICS: dict[str, Metric] = {"dynamath.average": mean, "dynamath.worst": worst}
