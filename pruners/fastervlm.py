"""FasterVLM: keep the tokens that the vision tower's class token attends to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pruners.layout import Scope
from pruners.selection import Selection, keep_top
from pruners.tower import TowerScored
from pruners.views import View


@dataclass(frozen=True, kw_only=True)
class FasterVLM(TowerScored):
    """[CLS] Attention is All You Need for Training-Free Visual Token Pruning (arXiv 2412.01818v1).

    Score of token i: mean over heads of the class token's attention to i, in the tower layer whose output is projected
    (CLIP's last but one). The k = round(keep * n) highest of every crop go to the language model, in raster order.
    Text plays no part.

    Stated by the paper: the score and the moment. Of the official code: every crop has its own budget, crops of
    LLaVA-NeXT lose newlines and padding; float32, ties to the lower index are ours. Inferred: where there is no class
    token (Qwen3-VL), the attention that tokens receive from all others, as the authors advise for VisPruner, mean over
    the merged tower tokens. Users report results below random with towers other than CLIP. Position ids: see
    `BeforeLLM`.
    """

    scope: ClassVar[Scope] = "crop"

    def at_embed(self, view: View) -> Selection | None:
        k = self.count(len(view))
        if k >= len(view):
            return None
        return Selection(keep_top(view[self.attention], k).source, positions=self.positions)
