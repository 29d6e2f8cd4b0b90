"""Which part of a reply is the answer."""

from __future__ import annotations

from typing import Literal

Cut = Literal["cut", "cut_or_whole", "whole"]


def answer_part(text: str, thinking: bool, how: Cut) -> str | None:
    """The part of a reply that is scored, without blanks around it; None if the reply never got to its answer.

    Args:
        text: the whole reply.
        thinking: whether the model always thinks first.
        how: "cut": what follows the last `</think>`; a thinking model that did not close its thoughts gave no answer.
            "cut_or_whole": the same, but an unclosed thought is scored as a whole (VLMEvalKit with SPLIT_THINK).
            "whole": the raw reply (VLMEvalKit without it).
    """
    _, mark, tail = text.rpartition("</think>")
    if how == "whole":
        return text.strip()
    if mark:
        return tail.strip()
    return None if thinking and how == "cut" else text.strip()
