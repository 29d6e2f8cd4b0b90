"""Rules of single methods, on the inputs that the official code had."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.golden.compare import Golden
from harness.golden.scene import pruned
from harness.models.attention import grouped, sdpa
from pruners.divprune import DivPrune, order
from pruners.fastv import FastV
from pruners.signals import Attention, Signal, TowerAttention, TowerHidden, TowerKeys
from pruners.views import ModelInfo, StepView
from pruners.visionpulse import VisionPulse
from pruners.visionzip import VisionZip, reassemble

LLAVA = ModelInfo(name="LLaVA-1.5", depth=32, tower_depth=24, has_cls=True, feature_layer=-2)
QWEN = ModelInfo(name="Qwen3-VL-4B", depth=36, tower_depth=24, unit=4, axes=3)


def by_score(kept: Tensor, scores: Tensor) -> Tensor:
    """Kept tokens in descending order of their scores [n]."""
    return kept[scores[kept].argsort(descending=True, stable=True)]


def fastv(golden: Golden) -> None:
    """Attention of the last prompt token in; selection and the sequence after it out."""
    start, n, layer = golden.number("in_sys_length"), golden.number("in_image_length"), 2
    scores = golden.shaped("in_last_query_attention", None, len(golden["in_hidden_states"])).mean(0)[start : start + n]
    selection, after = pruned(
        FastV(keep=None, tokens=golden.number("in_keep"), layer=layer), golden["in_hidden_states"], start, n, LLAVA,
        {Attention(layer - 1, rows="last", keys="visual", head="mean"): scores},
    )  # fmt: skip
    golden.equal("out_topk_image_index", by_score(selection.source, scores))
    golden.equal("out_keep_index", after.index)
    golden.equal("out_position_ids", after.positions[0])
    golden.close("out_hidden_states", after.hidden)


def divprune(golden: Golden) -> None:
    """Features in; greedy order and kept set out."""
    features = golden["in_features"]
    _, after = pruned(DivPrune(keep=golden.ratio("in_ratio")), features, 0, len(features), LLAVA)
    golden.equal("out_select_order", order(features, len(after)))
    golden.equal("out_keep_index", after.index)


def visionzip(golden: Golden) -> None:
    """LLaVA's form, crop by crop: rows before the projector, which is the identity here."""
    dominant, contextual = golden.number("in_dominant_incl_cls"), golden.number("in_contextual")
    pruner = VisionZip(keep=None, tokens=dominant + contextual, contextual=contextual / (dominant + contextual))
    tokens, indices = [], []
    crops = zip(golden["in_cls_attention"], golden["in_hidden_states"], golden["in_key_metric"], strict=True)
    for attention, hidden, keys in crops:
        cls, patches, scores = hidden[:1], hidden[1:], attention.sum(0)[1:]
        signals: dict[Signal, Tensor] = {
            TowerAttention(-2, "cls", "sum"): scores, TowerKeys(-2): keys[None, 1:], TowerHidden(-2): patches,
            TowerHidden(-2, rows="cls"): cls.expand(len(patches), -1),
        }  # fmt: skip
        selection, after = pruned(pruner, patches, 0, len(patches), LLAVA, signals)
        tokens.append(after.hidden)
        indices.append(torch.cat([selection.source[:1], by_score(selection.source[1:dominant], scores)]) + 1)
    golden.equal("out_dominant_index_with_cls", torch.stack(indices))
    golden.close("out_tokens", torch.stack(tokens))


def visionzip_next(golden: Golden) -> None:
    """LLaVA-NeXT's order of the crops' tokens."""
    width, height = golden.number("in_grid_width"), golden.number("in_grid_height")
    golden.close("out_sequence", reassemble(golden["in_tokens"], golden["in_keep_index_with_cls"], width, height))


def visionzip_qwen(golden: Golden) -> None:
    """The form for merged tokens: embeddings and position ids after it."""
    scores, keys = golden["in_received_attention"], golden["in_key_metric"]
    dominant, contextual = golden.ratio("in_dominant_ratio"), golden.ratio("in_contextual_ratio")
    share = dominant + contextual
    _, after = pruned(
        VisionZip(keep=share, contextual=contextual / share), golden["in_embeddings"],
        golden.number("in_image_start"), len(scores), QWEN,
        {TowerAttention(-1, "received", "mean"): scores, TowerKeys(-1): keys[None]},
    )  # fmt: skip
    golden.close("out_embeddings", after.hidden)
    golden.equal("out_position_ids", after.positions[0])


def visionpulse(golden: Golden) -> None:
    """One decode step at the anchor layer: mass, mask, and attention over what is left."""
    query, key = golden["in_query"], golden["in_key"]
    value = golden.shaped("in_value", *key.shape)
    start, n = golden.number("in_visual_start"), golden.number("in_visual_length")
    pulse = VisionPulse(
        tau=golden.ratio("in_tau"), low=golden.ratio("in_budget_min"), high=golden.ratio("in_budget_max")
    )
    folded = grouped(query[None], len(key))
    logits = (folded @ key[None].transpose(2, 3) * query.shape[-1] ** -0.5).reshape(1, len(query), -1)
    view = step_view(logits, start, n, anchor=pulse.step_layer(QWEN.depth))
    golden.close("out_visual_mass", pulse.mass(view))
    decision = pulse.at_step(view)
    seen = torch.ones(key.shape[1], dtype=torch.bool)
    seen[start : start + n] = decision.mask[0]
    golden.equal("out_keep_index", decision.mask[0].nonzero().flatten() + start)
    out = sdpa(folded, key[None], value[None], seen.expand(1, 1, 1, -1))  # [1, G, Hkv, d]
    golden.close("out_attention_output", out.transpose(1, 2).reshape(1, len(query), -1))


def step_view(logits: Tensor, start: int, n: int, anchor: int) -> StepView:
    """The view of one slot with logits [1, H, L], whose n visual tokens begin at `start`."""
    length = logits.shape[2]
    every = torch.ones(1, n, dtype=torch.bool)
    text = torch.cat([logits[..., :start], logits[..., start + n :]], dim=2)

    return StepView(
        layer=anchor, logits=logits[..., start : start + n], valid=every, kept=every, visible=every,
        place=torch.arange(start, start + n)[None], length=torch.tensor([length]), step=torch.zeros(1).long(), state={},
        longest=length, rest=lambda temperature: (text / temperature).logsumexp(-1),
    )  # fmt: skip
