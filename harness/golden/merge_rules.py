"""Rules of methods that merge tokens inside the vision tower."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from harness.engine.features import FeatureCache
from harness.engine.parts import ignore
from harness.engine.trace import Request
from harness.engine.vision import Vision
from harness.golden.compare import Damaged, Golden
from harness.golden.scene import Bare
from harness.models.base import Features, PictureInput, Prompt, TowerHooks
from harness.models.stream import Stream
from pruners.layout import VisualLayout
from pruners.signals import Signal, TowerKeys
from pruners.tome import ToMe
from pruners.views import ModelInfo

if TYPE_CHECKING:
    from harness.engine.parts import Part


class Given(Bare):
    """A tower whose layers change nothing and have these keys [p, d] of one head, class token first if there is one.

    Attributes:
        made: after every layer, hidden states [p, D], sizes [p], and for each state before it the one that it went to.
    """

    def __init__(self, keys: Sequence[Tensor], table: Tensor, class_token: bool) -> None:
        super().__init__(ModelInfo(name="given", depth=1, tower_depth=len(keys), has_cls=class_token), table)
        self.given, self.cls = keys, int(class_token)
        self.made: list[tuple[Tensor, Tensor, Tensor]] = []

    def encode(
        self, picture: PictureInput, signals: Sequence[Signal] = (), hooks: TowerHooks | None = None,
        part: Part = nullcontext,
    ) -> Features:  # fmt: skip
        acts, token, first = hooks or TowerHooks(), torch.arange(len(self.table)), torch.arange(self.cls)
        stream = Stream(picture.pixels, token, torch.ones(len(token)), unit=1, cls=self.cls)
        out = Features(picture.pixels, picture.pixels)
        for i, keys in enumerate(self.given):
            if len(keys) != len(stream):
                raise Damaged(f"the metric of step {i + 1} has {len(keys)} rows, not {len(stream)}")
            out.signals[TowerKeys(i)] = (keys[None, self.cls :], stream.token)
            selection, row = stream.act(acts.inside.get(i), i, out), torch.arange(len(keys) - self.cls)
            if selection is not None:
                assert selection.weights is not None
                row = row.index_copy(0, selection.weights.cols, selection.weights.rows)
            sizes = torch.cat([torch.ones(self.cls), stream.size])
            self.made.append((stream.hidden[0], sizes, torch.cat([first, row + self.cls])))
        return out


def tome(golden: Golden) -> None:
    """Metric and tokens in; what two steps make of them out, and in which row each token ended in the first."""
    tokens, cls = golden.shaped("in_tokens", None, None), golden.number("in_class_token")
    model = Given([golden["in_metric"], golden["in_metric_step2"]], torch.zeros(len(tokens) - cls, 1), bool(cls))
    n = len(model.table)
    picture, visual = PictureInput(tokens[None], (1, 1), key=""), torch.arange(n)
    prompt = Prompt(visual, visual[None], n, visual, VisualLayout.of_grids([(1, n)]), (picture,))
    pruner = ToMe(r=golden.number("in_r"))
    pruner.check(model.info)
    Vision(model, pruner.resolved(model.info), FeatureCache(0), ignore).features([(Request("golden", ()), prompt)])
    (first, sizes, row), (second, later, _) = model.made
    golden.close("out_tokens", first)
    golden.close("out_sizes", sizes)
    golden.equal("out_group_of_input", row)
    golden.close("out_tokens_step2", second)
    golden.close("out_sizes_step2", later)


METHODS: dict[str, Callable[[Golden], None]] = {"ToMe": tome}
