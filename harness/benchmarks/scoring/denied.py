"""Letters that a reply names only to say that they are not the answer."""

from __future__ import annotations

import re
from functools import cache

HINT = re.compile(
    r"n['’]t\b|not\b|\bn(?:either|or)\b|eliminat|exclud|discard|reject|\bout\b|wrong|false|invalid|impossible|incorrect",
    re.I,
)
"""What every denial has; most replies need no closer look."""

TRIGGER = (
    r"(?i:(?:\b(?:not|cannot|neither|nor|eliminat\w*|exclud\w*|discard\w*|reject\w*|rul\w+\s+out)|n['’]t)"
    r"(?:\s+(?:be|is|the|either|both|choose|select|pick|correct|right|best|option|choice|answer|letter)s?\b){0,4}\s+)"
)
VERBS = r"(?:is|are|was|were|be|been|do|does|can|could|should|would|must|seems?|both|all|also|clearly|therefore)"
DENIAL = (
    rf"\s+(?:{VERBS}\s+){{0,4}}(?:(?:(?:is|are|was|were|does|do|can|could|should|would)n['’]t|cannot)\b"
    rf"|{VERBS}\s+(?:not|incorrect|wrong|false|invalid|impossible|eliminated|excluded|rejected|discarded"
    r"|ruled\s+out)\b)"
)


@cache
def _pattern(last: str) -> re.Pattern[str]:
    letter = rf"[(\[]?[A-{last}](?!\w)[)\]]?(?:\.(?=\s*[,a-z]))?"
    more = (
        rf"(?:\s*(?:,?\s*(?:\band|\bn?or|[&/])\s*(?:option\s+)?{letter}"
        rf"|,\s*{letter}(?!\s+(?:is|was|must|should|would|fits?|works?)\b)))"
    )
    stated = rf"\b(?i:answer)\s*(?::|is\b:?)\s*{letter}"  # to a question for what does not hold
    return re.compile(rf"({stated})|({TRIGGER}){letter}{more}{{0,9}}|(?<![\w'’]){letter}{more}{{0,9}}{DENIAL}")


def without_denied(text: str, last: str) -> str:
    """A text with a blank for every letter, A to `last`, that is denied: "not A", "neither A nor B", "A is wrong".

    "Answer: A is not a mammal" states A.
    """
    if not HINT.search(text):
        return text
    return _pattern(last).sub(lambda found: found[1] or f"{found[2] or ''}_", text)
