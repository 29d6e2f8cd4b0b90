"""SparseVLM and SparseVLM+, and FlowCut inside the vision tower."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from torch import Tensor

from harness.compat import AttentionInterface
from harness.engine.features import FeatureCache
from harness.engine.parts import ignore
from harness.engine.trace import Request
from harness.engine.vision import Vision
from harness.golden import decoder
from harness.golden.compare import Damaged, Golden
from harness.golden.scene import Bare, prefill, taken
from harness.models.base import PictureInput, Prompt
from harness.models.llava import Llava
from pruners.flowcut import FlowCut
from pruners.layout import VisualLayout
from pruners.signals import Attention, Keys, Signal
from pruners.sparsevlm import Rated, SparseVLM
from pruners.sparsevlm_plus import SparseVLMPlus
from pruners.views import ModelInfo

T = TypeVar("T", SparseVLM, SparseVLMPlus)
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


def budgeted(method: type[T], golden: Golden, **options: Any) -> T:
    """The method with the counts of its published budget, whatever the number of tokens, as in the official code."""
    budget = golden.number("in_budget")
    if budget not in method.published:
        raise Damaged(f"in_budget is {budget}; published: {', '.join(map(str, sorted(method.published)))}")
    return method(keep=None, tokens=budget, counts=method.published[budget], **options)


def attention(golden: Golden, stage: int) -> Tensor:
    """[H, T, V] of one stage."""
    return golden[f"in_stage{stage}_text_to_visual_attention"]


def sparsevlm(golden: Golden) -> None:
    """Embeddings and attention in; raters, and after every stage kept tokens, counts, hidden states and ids out."""
    stages(golden, budgeted(SparseVLM, golden), {
        layer: {Attention(layer, rows="text", head="mean", row="none"): attention(golden, stage).mean(0)}
        for stage, layer in enumerate(STAGES)
    })  # fmt: skip


def sparsevlm_plus(golden: Golden) -> None:
    """The same with the attention of every head."""
    width = golden.number("in_head_dim")
    stages(golden, budgeted(SparseVLMPlus, golden), {
        layer: {
            Attention(layer, rows="text", head="none", row="none"): attention(golden, stage),
            Keys(layer): torch.zeros(1, attention(golden, stage).shape[2], width),
        }
        for stage, layer in enumerate(STAGES)
    })  # fmt: skip


def end_to_end(method: type[T]) -> Callable[[Golden], None]:
    """Prefill and decoding of the small Llama, whose depth is not that of the paper's model."""

    def check(golden: Golden) -> None:
        pruner = budgeted(method, golden, drop_at=tuple(layer + 1 for layer in STAGES))
        decoder.run(golden, pruner, heads=golden.number("in_num_heads"))

    return check


class Clip(Llava, Bare):
    """CLIP's tower with these weights, no biases and plain norms; pixels are what enters its first layer.

    Queries are scaled before their product with the keys, as the official code does: in float32 the order shows.
    """

    embed = Bare.embed
    project = Bare.project

    def __init__(self, golden: Golden) -> None:
        from transformers import CLIPVisionConfig  # only now: harness.compat has to come first
        from transformers.models.clip.modeling_clip import CLIPEncoder

        depth, width, _ = golden["in_w_q"].shape
        Bare.__init__(
            self, ModelInfo(name="CLIP", depth=32, tower_depth=depth, has_cls=True, feature_layer=-2),
            torch.zeros(len(golden["in_embeddings_after_pre_ln"]) - 1, width), tower_depth=depth - 1, tower_cls=1,
        )  # fmt: skip
        encoder = CLIPEncoder(
            CLIPVisionConfig(
                hidden_size=width, num_attention_heads=golden.number("in_heads"), num_hidden_layers=depth,
                intermediate_size=golden["in_w_fc1"].shape[1], attn_implementation=SCALED_FIRST,
            )
        )  # fmt: skip
        state = {name: torch.full_like(x, float(".weight" in name)) for name, x in encoder.state_dict().items()}
        for key, name in TOWER.items():
            weights = golden.shaped(f"in_w_{key}", depth, None, None)
            state |= {f"layers.{k}.{name}.weight": rows for k, rows in enumerate(weights)}
        encoder.load_state_dict(state)
        self.tower = SimpleNamespace(encoder=encoder.eval())

    def enter(self, pixels: Tensor) -> Tensor:
        return pixels


TOWER = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.out_proj",
    "fc1": "mlp.fc1", "fc2": "mlp.fc2",
}  # fmt: skip
"""Keys of the tower's weights and what they are in the stock model."""
SCALED_FIRST = "golden_scaled_first"


def scaled_first(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Attention of [B, H, P, d] -> [B, P, H, d]."""
    weights = ((query * scaling) @ key.transpose(2, 3)).softmax(-1)
    return (weights @ value).transpose(1, 2), None


AttentionInterface.register(SCALED_FIRST, scaled_first)


def flowcut(golden: Golden) -> None:
    """The tower's input and weights in; patches left after every layer, which ones, and their features out."""
    model, entering = Clip(golden), golden["in_embeddings_after_pre_ln"]
    n = len(entering) - 1
    pruner = FlowCut(keep=None, tokens=golden.number("in_target"))
    pruner.check(model.info)
    picture = PictureInput(entering[None], (1, 1), key="")
    prompt = Prompt(
        torch.arange(n), torch.arange(n)[None], n, torch.arange(n), VisualLayout.of_grids([(1, n)]), (picture,)
    )
    vision = Vision(model, pruner.resolved(model.info), FeatureCache(0), ignore)
    ((features,),) = vision.features([(Request("golden", ()), prompt)])
    assert features.token is not None
    golden.equal("out_keep_index", features.token)
    golden.close("out_tokens", features.tokens)
    counts = [n, *(layer.left - 1 for layer in features.tower_tokens[0])]
    counts.append(counts[-1])  # the last layer, which nobody reads, does not run
    golden.equal("out_patch_count_per_hidden_state", torch.tensor(counts))


METHODS: dict[str, Callable[[Golden], None]] = {
    "SparseVLM": sparsevlm,
    "SparseVLMplus": sparsevlm_plus,
    "FlowCut": flowcut,
    "E2E_SparseVLM": end_to_end(SparseVLM),
    "E2E_SparseVLMplus": end_to_end(SparseVLMPlus),
}
