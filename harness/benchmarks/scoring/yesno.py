"""Yes/no questions: POPE."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from harness.benchmarks.base import Item
from harness.benchmarks.scoring.asking import insist
from harness.benchmarks.scoring.means import judged
from harness.benchmarks.scoring.verdict import Ask, JudgedRule, Measure, Metric, Rule, Scored, Verdict, settle
from harness.benchmarks.scoring.vqa import without_punctuation

CATEGORIES = ("adversarial", "popular", "random")
STATED = re.compile(
    r"(?:\banswer\b[^.\n]{0,40}?(?:\bis\b|:)|\\boxed\{|<answer>)[\s*\"'{]*(?:\\text\{)?(yes|no)\b", re.I
)
UNTOLD = re.compile(
    r"\byes\s*(?:or|/)\s*no\b"
    r"|(?:\b(?:no|not|cannot|unable)\b|n['’]t\b)[^.,;\n]{0,30}?\b(?:able|sure|certain|possible|tell|determin\w*|know\w*"
    r"|answer\w*|say|clear\w*|idea|way|enough|provid\w*|attach\w*|help|assist|identif\w*|confirm\w*"
    r"|see (?:the|this|any|an|your) (?:image|picture|photo)s?)\b",
    re.I,
)
"""A question, and what a reply says that it cannot tell."""

JUDGE = """\
Match an answer to a yes/no question: say whether it means yes or no. If it means neither, say Unknown. Reply with one \
word, Yes, No or Unknown, and nothing else.

Question: Is the word in this image 'Hello'?
Answer: The word in this image is 'Hello'.
Word: Yes

Question: Is the word in this image 'Hello'?
Answer: The word in this image is not 'Hello'.
Word: No

Question: {question}
Answer: {answer}
Word: """


def llava(item: Item, answer: str) -> Verdict:
    """ "no" if the text before the first full stop, commas dropped, has the word No, no or not; else always "yes".

    Source: LLaVA, llava/eval/eval_pope.py. Nothing is unparsed: a refusal is a yes.
    """
    words = answer.split(".")[0].replace(",", "").split(" ")
    said = "no" if {"No", "not", "no"} & set(words) else "yes"
    return settle("pope.llava", said, said == item.answer)


def lmms(item: Item, answer: str) -> Verdict:
    """The whole reply is yes or no, in either case; "Yes." is wrong.

    Source: lmms-eval 0.7.3, tasks/pope/utils.py, pope_process_results.
    """
    said = answer.strip().lower()
    return settle("pope.lmms", said if said in ("yes", "no") else None, said == item.answer)


def extract(answer: str) -> str | None:
    """The one of yes and no that is among the words (VLMEvalKit, vlmeval/dataset/utils/yorn.py, YOrN_Extraction)."""
    found = {"yes", "no"} & set(without_punctuation(answer.lower()).split())
    return found.pop() if len(found) == 1 else None


def vlmevalkit(item: Item, answer: str, ask: Ask | None) -> Verdict:
    """The one of yes and no that is among the words; else up to five tries of a judge, ever hotter; else wrong.

    Source: VLMEvalKit, vlmeval/dataset/utils/yorn.py, YOrN_auxeval. The wording of the question to the judge is ours;
    it asks the same.
    """
    said = extract(answer)
    if said is None and ask is not None:
        said = insist(ask, JUDGE.format(question=item.meta["question"], answer=answer), extract)
    return settle("yesno.vlmevalkit", said, said == item.answer)


def lenient(item: Item, answer: str) -> Verdict:
    """Yes or no in any reasonable form: the last "the answer is ...", else the first word, else the only one of both.

    A sentence without either is a no if it negates something, and a yes if it says that there is something. A question
    ("yes or no?") and what the reply cannot tell ("not sure", "unable to see the image") are neither.
    """
    stated, told = STATED.findall(answer), UNTOLD.sub(" ", answer)
    words = re.findall(r"[a-z]+", told.lower())
    if stated:
        said: str | None = stated[-1].lower()
    elif found := {"yes", "no"} & set(words[:1]) or {"yes", "no"} & set(words):
        said = found.pop() if len(found) == 1 else None
    elif told != answer:
        said = None
    elif re.search(r"\bnot\b|n['’]t\b|\bcannot\b", answer, re.I):
        said = "no"
    else:
        said = "yes" if re.match(r"\W*there (?:is|are)\b", answer, re.I) else None
    return settle("yesno.lenient", said, said == item.answer)


RULES: dict[str, Rule] = {"pope.llava": llava, "pope.lmms": lmms, "yesno.lenient": lenient}
JUDGED: dict[str, JudgedRule] = {"yesno.vlmevalkit": vlmevalkit}


def _counts(samples: Sequence[Scored]) -> Counter[tuple[str, str | None]]:
    """How often each pair of label and reply occurs."""
    return Counter((s.item.answer, s.verdict.extracted) for s in samples)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _f1(right: int, said: int, positive: int) -> float:
    """F1 = 2 P R / (P + R) from the numbers of true positives, of replies "yes" and of labels "yes"."""
    return _share(2 * right, said + positive)


def _said_yes(counts: Counter[tuple[str, str | None]]) -> int:
    return counts["yes", "yes"] + counts["no", "yes"]


def _positive(counts: Counter[tuple[str, str | None]]) -> int:
    return sum(n for (label, _), n in counts.items() if label == "yes")


def mean_f1(samples: Sequence[Scored]) -> Measure:
    """Mean of the F1 of POPE's three categories, as papers with LLaVA's protocol quote it (8,910 rows)."""
    known, note = judged(samples)
    by = {name: _counts([s for s in known if s.item.category == name]) for name in CATEGORIES}
    rows = ", ".join(f"{name} {counts.total()}" if counts else f"{name} missing" for name, counts in by.items())
    scores = [_f1(c["yes", "yes"], _said_yes(c), _positive(c)) for c in by.values() if c]
    value = sum(scores) / len(scores) if scores else None
    return Measure(value, sum(c.total() for c in by.values()), "; ".join(filter(None, [f"rows: {rows}", note])))


def pooled_f1(samples: Sequence[Scored]) -> Measure:
    """F1 over all rows together, as lmms-eval computes it.

    Source: lmms-eval 0.7.3, tasks/pope/utils.py. There an unparsed reply is left out of the recall; it is so here, and
    the note gives the F1 with such replies as misses.
    """
    known, note = judged(samples)
    counts = _counts(known)
    unread = counts["yes", None]
    right, said, positive = counts["yes", "yes"], _said_yes(counts), _positive(counts)
    if unread:
        missed = (
            f"{unread} unparsed replies to yes are left out of the recall; as misses: {_f1(right, said, positive):.4f}"
        )
        note = "; ".join(filter(None, [missed, note]))
    return Measure(_f1(right, said, positive - unread) if known else None, len(known), note)


def kit_f1(samples: Sequence[Scored]) -> Measure:
    """F1 over all rows together, an unparsed reply (Unknown) as a no (VLMEvalKit, utils/yorn.py, POPE_rating)."""
    known, note = judged(samples)
    counts = _counts(known)
    value = _f1(counts["yes", "yes"], _said_yes(counts), _positive(counts))
    return Measure(value if known else None, len(known), note)


def accuracy(samples: Sequence[Scored]) -> Measure:
    """Share of right replies; an unparsed one is wrong."""
    known, note = judged(samples)
    return Measure(sum(bool(s.verdict.correct) for s in known) / len(known) if known else None, len(known), note)


def precision(samples: Sequence[Scored]) -> Measure:
    """Share of the replies "yes" that are right."""
    known, note = judged(samples)
    counts = _counts(known)
    return Measure(_share(counts["yes", "yes"], _said_yes(counts)) if known else None, len(known), note)


def recall(samples: Sequence[Scored]) -> Measure:
    """Share of the labels "yes" that are found; an unparsed reply is a miss."""
    known, note = judged(samples)
    counts = _counts(known)
    return Measure(_share(counts["yes", "yes"], _positive(counts)) if known else None, len(known), note)


def yes_ratio(samples: Sequence[Scored]) -> Measure:
    """Share of yes among the replies (lmms-eval takes it of the labels, where it is the same for every model)."""
    known, note = judged(samples)
    return Measure(_said_yes(_counts(known)) / len(known) if known else None, len(known), note)


METRICS: dict[str, Metric] = {
    "pope.llava_mean_f1": mean_f1,
    "pope.lmms_pooled": pooled_f1,
    "pope.vlmevalkit": kit_f1,
    "pope.accuracy": accuracy,
    "pope.precision": precision,
    "pope.recall": recall,
    "pope.yes_ratio": yes_ratio,
}
