"""SparseVLM and SparseVLM+, and FlowCut inside the vision tower."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from harness.golden import decoder
from harness.golden.compare import Golden
from harness.golden.scene import Bare, prefill, taken
from pruners.signals import Attention, Keys, Signal
from pruners.sparsevlm import Rated, SparseVLM
from pruners.sparsevlm_plus import SparseVLMPlus
from pruners.views import ModelInfo

STAGES = (2, 6, 15)
"""Language-model layers after which tokens are removed."""


class Staged(Bare):
    """Layers that change nothing, some of which have given signals; `after` holds what enters the layer after each."""

    def __init__(self, table: Tensor, given: dict[int, dict[Signal, Tensor]]) -> None:
        super().__init__(ModelInfo(name="LLaVA-1.5", depth=32, tower_depth=24, has_cls=True, feature_layer=-2), table)
        self.given = given
        self.after: list[tuple[int, Tensor, Tensor]] = []

    def layer(self, k: int, hidden: Tensor, rope: tuple[Tensor, Tensor], attention: Any) -> Tensor:
        segment, record = attention.segments[0], attention.records[0][0]
        for signal, value in self.given.get(k, {}).items():
            record.values[signal] = (value, segment.ids[segment.visual])
        if k - 1 in self.given:
            self.after.append((segment.visual_count, segment.hidden, segment.positions[0]))
        return hidden


def stages(golden: Golden, pruner: Rated, given: dict[int, dict[Signal, Tensor]]) -> None:
    """Three steps with nothing between them, from the attention that the official code had in each."""
    rows, start, n = golden["in_embeddings"], golden.number("in_sys_length"), golden.number("in_image_length")
    model = Staged(rows, given)
    segment = prefill(model, pruner, torch.arange(len(rows)), start, n).segment
    golden.equal("out_text_rater_index", segment.states[0]["raters"].nonzero().flatten())
    for stage, (entry, (count, hidden, positions)) in enumerate(zip(segment.kept, model.after, strict=True)):
        ((_, _, selection),) = taken(entry)
        assert selection is not None
        golden.equal(f"out_stage{stage}_keep_visual_index", selection.source[selection.source >= 0])
        golden.equal(f"out_stage{stage}_visual_count_after", torch.tensor(count))
        golden.close(f"out_stage{stage}_hidden", hidden)
        golden.equal(f"out_stage{stage}_position_ids", positions)


def attention(golden: Golden, stage: int) -> Tensor:
    """[H, T, V] of one stage."""
    return golden[f"in_stage{stage}_text_to_visual_attention"]


def sparsevlm(golden: Golden) -> None:
    """Embeddings and attention in; raters, and after every stage kept tokens, counts, hidden states and ids out."""
    stages(golden, SparseVLM(keep=None, tokens=golden.number("in_budget")), {
        layer: {Attention(layer, rows="text", head="mean", row="none"): attention(golden, stage).mean(0)}
        for stage, layer in enumerate(STAGES)
    })  # fmt: skip


def sparsevlm_plus(golden: Golden) -> None:
    """The same with the attention of every head."""
    width = golden.number("in_head_dim")
    stages(golden, SparseVLMPlus(keep=None, tokens=golden.number("in_budget")), {
        layer: {
            Attention(layer, rows="text", head="none", row="none"): attention(golden, stage),
            Keys(layer): torch.zeros(1, attention(golden, stage).shape[2], width),
        }
        for stage, layer in enumerate(STAGES)
    })  # fmt: skip


def end_to_end(method: type[SparseVLM | SparseVLMPlus]) -> Callable[[Golden], None]:
    """Prefill and decoding of the small Llama, whose depth is not that of the paper's model."""

    def check(golden: Golden) -> None:
        pruner = method(keep=None, tokens=golden.number("in_budget"), drop_at=tuple(layer + 1 for layer in STAGES))
        decoder.run(golden, pruner, heads=golden.number("in_num_heads"))

    return check


METHODS: dict[str, Callable[[Golden], None]] = {
    "SparseVLM": sparsevlm,
    "SparseVLMplus": sparsevlm_plus,
    "E2E_SparseVLM": end_to_end(SparseVLM),
    "E2E_SparseVLMplus": end_to_end(SparseVLMPlus),
}
