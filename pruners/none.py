"""The two ends of the scale: keep every visual token, and keep none."""

from __future__ import annotations

from dataclasses import dataclass

from pruners.base import Pruner
from pruners.selection import Selection
from pruners.views import View


@dataclass(frozen=True, kw_only=True)
class NoPruning(Pruner):
    """The full model, against which every method is compared."""


@dataclass(frozen=True, kw_only=True)
class Blind(Pruner):
    """No visual tokens at all: what the text alone gives away. Markers around the picture and position ids stay."""

    def at_embed(self, view: View) -> Selection:
        return Selection(view.index.new_zeros(0))
