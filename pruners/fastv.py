"""FastV: prune once inside the language model, by the attention of the last prompt token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pruners.budget import Budgeted, Layer, resolve_layer
from pruners.selection import Selection, keep_top
from pruners.signals import Attention, Signal
from pruners.views import ModelInfo, View


@dataclass(frozen=True, kw_only=True)
class FastV(Budgeted):
    """An Image is Worth 1/2 Tokens After Layer 2 (arXiv 2403.06764).

    Scores are the attention of the last prompt token inside layer K - 1 after softmax, mean over heads (the official
    code; the paper's text says mean over all queries). The k highest visual tokens of each picture enter layer K.
    Position ids stay; the prompt's key-value cache stays whole in the layers before K.

    Attributes:
        layer: K; the paper's K = 2 of 32 layers. A fraction gives at least 2: attention inside layer 0 reads bare
            embeddings, in which the last prompt token cannot know the question.
    """

    layer: Layer = "2/32"

    def layers(self, depth: int) -> tuple[int, ...]:
        return (resolve_layer(self.layer, depth, least=1 if isinstance(self.layer, int) else 2),)

    def signals(self, model: ModelInfo) -> Sequence[Signal]:
        return (self._scores(model.depth),)

    def _scores(self, depth: int) -> Attention:
        return Attention(layer=self.layers(depth)[0] - 1, rows="last", keys="visual", head="mean")

    def at_layer(self, view: View) -> Selection:
        return keep_top(view[Attention(layer=(view.layer or 0) - 1)], self.count(len(view)))
