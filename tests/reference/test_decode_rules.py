"""Rules that act while tokens are generated, against stock layers under explicit masks and with explicit caches.

What a rule says it did in each pass fixes who sees whom, so that one run of the stock layers over the whole sequence,
under one mask for each layer, must yield the same logits; its attention must yield the same cosines and choices."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

sys.modules.setdefault("torchvision", None)  # type: ignore[arg-type]  # pictures are tensors here
from transformers import DynamicCache  # noqa: E402

from . import qwen3_vl, test_crop_families, test_reference_itself  # noqa: E402
from .decoder import DSTP, Decoder, FastV, Masks, Prompt, Result, VisionPulse, top  # noqa: E402

DEPTH, PASSES = 4, 14
GENERATED = [7, 8, 11, 3, 60, 2, 33, 7, 21, 5, 44, 80, 13, 9]
BASES = [Masks({0: [[0, 2, 5], [1, 3]]}), FastV(1, [3, 2]), FastV(2, [4, 2])]
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@dataclass(frozen=True)
class Case:
    model: Any
    reference: Decoder
    prompt: Prompt
    inputs: dict[str, Tensor]

    @property
    def visual(self) -> list[int]:
        return [at for picture in self.prompt.pictures for at in picture]


@pytest.fixture(scope="module", params=["qwen3_vl", "llava-gelu-gqa", "internvl"])
def case(request: pytest.FixtureRequest) -> Case:
    if request.param == "qwen3_vl":  # DeepStack rows after layers 0 and 1
        model: Any = test_reference_itself.build(tied=False, depth=DEPTH)
        ids, pixels, grids = test_reference_itself.sample(2)
        qwen = qwen3_vl.Reference(model)
        inputs = test_reference_itself.stock_inputs(ids, pixels, grids)
        return Case(model, qwen, qwen.prompt(ids, pixels, grids), inputs)
    model = test_crop_families.build(request.param)
    ids, pixels, tiles = test_crop_families.sample(model, 2)
    crops = test_crop_families.reference_of(model)
    return Case(model, crops, crops.prompt(ids, pixels, tiles), test_crop_families.stock_inputs(ids, pixels))


def angles(case: Case, rows: slice) -> tuple[Tensor, Tensor]:
    axes = len(case.prompt.positions)
    after = case.prompt.positions.max() + 1 + torch.arange(PASSES).expand(axes, -1)
    ids = torch.cat([case.prompt.positions, after], 1)[:, None, rows]
    turn: tuple[Tensor, Tensor] = case.model.model.language_model.rotary_emb(
        case.prompt.embeds, ids if axes > 1 else ids[0]
    )
    return turn


@torch.no_grad()
def under_masks(case: Case, sees: Tensor, probe: int, there: Tensor) -> tuple[Tensor, Tensor]:
    """Stock layers over prompt and generated tokens, `sees` [depth, rows, rows]. Logits of the prompt's end and after,
    and the attention [heads, PASSES + 1, rows] there if in layer `probe` alone those rows saw all that is `there`."""
    text, n = case.model.model.language_model, len(case.prompt.ids)
    x = torch.cat([case.prompt.embeds, text.embed_tokens.weight[GENERATED]])[None]
    turn, attention = angles(case, slice(None)), torch.empty(0)
    for i, layer in enumerate(text.layers):
        hidden = torch.zeros(sees[i].shape).masked_fill(~sees[i], float("-inf"))[None, None]
        if i == probe:
            open_mask = torch.zeros(sees[i].shape).masked_fill(~(there & causal(len(x[0]))), float("-inf"))
            attention = layer.self_attn(
                layer.input_layernorm(x), position_embeddings=turn, attention_mask=open_mask[None, None]
            )[1][0, :, n - 1 :]
        x = layer(x, position_embeddings=turn, attention_mask=hidden)
        if i < len(case.prompt.deepstack):
            x[0, case.visual] += case.prompt.deepstack[i]
    return case.model.lm_head(text.norm(x))[0, n - 1 :], attention


def causal(n: int) -> Tensor:
    return torch.ones(n, n, dtype=torch.bool).tril()


def cut_of(rule: Masks | FastV | None) -> int:
    return rule.layer if isinstance(rule, FastV) else 0


def sets(case: Case, result: Result) -> tuple[list[int], list[int]]:
    """Kept and pruned tokens, counted through all pictures."""
    pairs = zip(case.prompt.pictures, result.kept, strict=True)
    kept = [case.visual.index(picture[j]) for picture, js in pairs for j in js]
    return kept, [j for j in range(len(case.visual)) if j not in kept]


def dstp_masks(case: Case, rule: DSTP, result: Result) -> Tensor:
    n, cut, visual = len(case.prompt.ids), cut_of(rule.base), case.visual
    _, rest = sets(case, result)
    born = {at: math.inf for at in rest}  # when a pruned token came back first
    for t, step in enumerate(result.steps, 1):
        if step.chosen is not None:
            for j in rest if rule.swap == "full" else step.chosen:
                born[j] = min(born.get(j, math.inf), t)
    sees = causal(n + PASSES).repeat(DEPTH, 1, 1)
    for i in range(cut, DEPTH):
        for r in rest:
            if rule.recall != "dense":
                sees[i, :, visual[r]] = False
            if rule.recall == "shadow" or (rule.recall == "recompute" and i < rule.m):
                sees[i, [visual[s] for s in rest if s >= r], visual[r]] = True
            elif rule.recall == "recompute":
                sees[i, [visual[s] for s in rest if s >= r and born[s] >= born[r]], visual[r]] = True
        for t, step in enumerate(result.steps, 1):
            sees[i, n + t - 1, visual] = False
            sees[i, n + t - 1, [visual[j] for j in step.active]] = True
    return sees


def chosen_by(weights: Tensor, kept: list[int], rest: list[int], joint: bool) -> list[int]:
    """From the attention [heads, visual tokens] of one row, however much of it fell on other tokens."""
    if joint:
        return sorted(top((weights / weights.sum(-1, keepdim=True)).mean(0), len(kept)))
    ranks = torch.zeros(weights.shape[1])
    for group in (kept, rest):
        ranks[group] = (weights[:, group] / weights[:, group].sum(-1, keepdim=True)).mean(0)
    return sorted(top(ranks, len(kept)))


def check_states(rule: DSTP, result: Result, kept: list[int], everything: list[int]) -> None:
    """Active sets and triggers follow from cosines and choices."""
    until, active = 0, kept  # `active` holds up to and including pass `until`
    for t, step in enumerate(result.steps, 1):
        assert step.active == (active if t <= until else kept), t
        assert (step.cosine is None) == (t <= until)
        if rule.forced_triggers is not None:
            assert step.trigger == (t > until and t in rule.forced_triggers)
        else:
            assert step.trigger == (step.cosine is not None and step.cosine < rule.tau)
        assert (step.chosen is not None) == (step.trigger or (t == until and not rule.reversion and until > 0))
        if step.chosen is not None:
            assert len(step.chosen) == len(kept)
            both = sorted({*kept, *step.chosen})
            active = {"cpts": both, "full": everything}.get(rule.swap, step.chosen)
            until = t + rule.L
    assert result.triggers == [t for t, step in enumerate(result.steps, 1) if step.trigger]


def variants(odd: int) -> Iterator[tuple[int, str, bool, bool, frozenset[int] | None]]:
    """m, swap, reversion, joint, forced triggers (None: a bound that some passes fall under)."""
    for m in range(DEPTH):
        if m % 2 == odd:
            yield m, "cpts", True, False, None
        else:
            yield m, "cpts", False, m > 1, frozenset({2})
    yield 1 + odd, "hard", True, False, frozenset({1, 2, 6, 11})
    yield 3 * odd, "full", bool(odd), False, None


@pytest.mark.parametrize("recall", ["recompute", "shadow", "dense"])
@pytest.mark.parametrize("base", BASES, ids=str)
def test_dstp_equals_stock_layers_under_masks(case: Case, base: Masks | FastV, recall: Any) -> None:
    choices, of_others = 0, 0
    for m, swap, reversion, joint, forced in variants((BASES.index(base) + len(recall)) % 2):
        rule = DSTP(base, m, -2.0, 3, recall, joint, swap, reversion, forced)  # type: ignore[arg-type]
        if forced is None:
            never = case.reference.run(case.prompt, GENERATED, rule)
            assert not never.triggers
            rule = replace(rule, tau=sorted(step.cosine or 0.0 for step in never.steps)[PASSES // 3])
        result = case.reference.run(case.prompt, GENERATED, rule)
        kept, rest = sets(case, result)
        assert result.triggers
        check_states(rule, result, kept, list(range(len(case.visual))))

        everything = torch.ones(len(case.prompt.ids) + PASSES, dtype=torch.bool)
        logits, attention = under_masks(case, dstp_masks(case, rule, result), m, everything)
        torch.testing.assert_close(result.logits, logits, **CLOSE)
        weights = attention[:, :, case.visual]
        over_kept = weights[:, :, kept] / weights[:, :, kept].sum(-1, keepdim=True)
        for t, step in enumerate(result.steps, 1):
            if step.cosine is not None:
                cosine = torch.cosine_similarity(over_kept[:, 0].mean(0), over_kept[:, t].mean(0), 0)
                assert step.cosine == pytest.approx(float(cosine), abs=1e-5)
            if step.chosen is not None:
                assert step.chosen == chosen_by(weights[:, t], kept, rest, joint)
                choices += 1
                of_others += bool(set(step.chosen) - set(kept))
    assert choices > 10 and of_others > 3


@torch.no_grad()
def test_dstp_merge_equals_stock_layers_with_caches(case: Case) -> None:
    """Dense recall: the keys and values of the prompt are the stock model's own, whatever the base."""
    n, visual, text = len(case.prompt.ids), case.visual, case.model.model.language_model
    cache = case.model(**case.inputs, use_cache=True).past_key_values
    for base in BASES:
        for reversion in (True, False):
            rule = DSTP(base, 1, L=4, recall="dense", swap="merge", reversion=reversion, forced_triggers={3, 9})
            result = case.reference.run(case.prompt, GENERATED, rule)
            kept, _ = sets(case, result)
            check_states(rule, result, kept, visual)
            kv = [[layer.keys.clone(), layer.values.clone()] for layer in cache.layers]
            merged_until, logits = 0, []
            for t, step in enumerate(result.steps, 1):
                past = DynamicCache()
                for i, pair in enumerate(kv):
                    shown = [visual[j] for j in (range(len(visual)) if i < cut_of(base) else step.active)]
                    columns = [c for c in range(n + t - 1) if c not in visual or c in shown]
                    seen = [x[:, :, columns] for x in pair]
                    if i >= cut_of(base) and t <= merged_until:
                        mean = [x[:, :, [visual[j] for j in kept]].mean(2, keepdim=True) for x in pair]
                        seen = [torch.cat([a, b], 2) for a, b in zip(mean, seen, strict=True)]
                    past.update(*seen, i)
                x = text.embed_tokens.weight[[GENERATED[t - 1]]][None]
                turn = angles(case, slice(n + t - 1, n + t))
                for i, layer in enumerate(text.layers):
                    x = layer(x, position_embeddings=turn, attention_mask=None, past_key_values=past)
                    new = past.layers[i].keys[:, :, -1:], past.layers[i].values[:, :, -1:]
                    kv[i] = [torch.cat([a, b], 2) for a, b in zip(kv[i], new, strict=True)]
                logits.append(case.model.lm_head(text.norm(x))[0])
                merged_until = t + rule.L if step.chosen is not None else merged_until
            torch.testing.assert_close(result.logits[1:], torch.cat(logits), **CLOSE)


@pytest.mark.parametrize("recall", ["recompute", "shadow"])
def test_mean_of_one_token_is_the_token(case: Case, recall: Any) -> None:
    """P of one token, C another one: the mean of P and C is P and C."""
    shown = 0
    for j in range(len(case.prompt.pictures[1])):
        base = Masks({0: [[], [j]]})
        merge = DSTP(base, 2, L=5, recall=recall, joint=True, swap="merge", forced_triggers={2})
        results = [case.reference.run(case.prompt, GENERATED, replace(merge, swap=s)) for s in ("merge", "cpts")]  # type: ignore[arg-type]
        kept, _ = sets(case, results[0])
        if results[0].steps[1].chosen != kept:
            torch.testing.assert_close(results[0].logits, results[1].logits, **CLOSE)
            shown += 1
    assert shown


@pytest.mark.parametrize("swap", ["cpts", "full", "hard", "merge"])
def test_dstp_that_never_triggers_is_its_base(case: Case, swap: Any) -> None:
    for base in (*BASES, None):
        plain = case.reference.run(case.prompt, GENERATED, base)
        for recall in ("recompute", "shadow"):
            result = case.reference.run(case.prompt, GENERATED, DSTP(base, 2, -2.0, recall=recall, swap=swap))  # type: ignore[arg-type]
            torch.testing.assert_close(result.logits, plain.logits, **CLOSE)
            assert result.kept == plain.kept and not result.triggers
            for a, b in zip(result.hidden, plain.hidden, strict=True):
                torch.testing.assert_close(a, b, **CLOSE)


def test_dstp_dense_and_full_is_unpruned_after_the_first_pass(case: Case) -> None:
    n, full = len(case.prompt.ids), causal(len(case.prompt.ids) + PASSES)
    for base in BASES:
        rule = DSTP(base, 1, L=99, recall="dense", swap="full", forced_triggers={1})
        result = case.reference.run(case.prompt, GENERATED, rule)
        _, rest = sets(case, result)
        sees = full.repeat(DEPTH, 1, 1)
        sees[cut_of(base) :, n, [case.visual[j] for j in rest]] = False  # only pass 1 is pruned
        logits, _ = under_masks(case, sees, 0, full[-1])
        torch.testing.assert_close(result.logits, logits, **CLOSE)
        unpruned = case.reference.run(case.prompt, GENERATED)
        torch.testing.assert_close(result.logits[0], unpruned.logits[0], **CLOSE)
        assert (result.logits[1] - unpruned.logits[1]).abs().max() > 1e-3


@pytest.mark.parametrize("base", BASES, ids=str)
def test_recall(case: Case, base: Masks | FastV) -> None:
    """All that was pruned made anew at once is the shadow; only some of it is not, and the order matters."""
    for m in (0, DEPTH - 1):
        rule = DSTP(base, m, L=3, swap="full", forced_triggers={1, 4, 9})
        results = {
            recall: case.reference.run(case.prompt, GENERATED, replace(rule, recall=recall))  # type: ignore[arg-type]
            for recall in ("recompute", "shadow", "dense")
        }
        torch.testing.assert_close(results["recompute"].logits, results["shadow"].logits, **CLOSE)
        assert (results["dense"].logits - results["shadow"].logits).abs().max() > 1e-3
    most = 0.0
    for m in (0, DEPTH - 1):
        rule = DSTP(base, m, L=3, joint=True, forced_triggers={1, 5, 9})
        some = [case.reference.run(case.prompt, GENERATED, replace(rule, recall=r)) for r in ("recompute", "shadow")]  # type: ignore[arg-type]
        assert torch.equal(some[0].logits[:2], some[1].logits[:2])  # pass 1 has not yet seen any of it
        most = max(most, float((some[0].logits - some[1].logits).abs().max()))
    assert most > 1e-4


def test_swaps_differ(case: Case) -> None:
    rule = DSTP(BASES[1], 1, L=3, forced_triggers={2})
    swaps = ("cpts", "full", "hard", "merge")
    logits = [case.reference.run(case.prompt, GENERATED, replace(rule, swap=swap)).logits for swap in swaps]  # type: ignore[arg-type]
    for a in range(4):
        for b in range(a):
            assert torch.equal(logits[a][:3], logits[b][:3])
            assert (logits[a][3] - logits[b][3]).abs().max() > 1e-4


def test_no_visual_tokens_left(case: Case) -> None:
    """Without P there is no cosine, hence no trigger; a forced one chooses nothing."""
    nothing = Masks({0: [[], []]})
    plain = case.reference.run(case.prompt, GENERATED, nothing)
    forced = frozenset({2})
    for rule in (DSTP(nothing, 1), DSTP(nothing, 1, L=2, swap="merge", forced_triggers=forced)):
        result = case.reference.run(case.prompt, GENERATED, rule)
        assert all(step.cosine is None and not step.active for step in result.steps)
        torch.testing.assert_close(result.logits, plain.logits, **CLOSE)
    pulse = case.reference.run(case.prompt, GENERATED, VisionPulse(1, 1.0, 0.1, 0.9, nothing))
    assert {(p.mass, p.k, len(p.kept)) for p in pulse.pulses} == {(0.0, 0, 0)}
    torch.testing.assert_close(pulse.logits, plain.logits, **CLOSE)


@pytest.mark.parametrize("base", [None, *BASES], ids=str)
def test_vision_pulse_equals_stock_layers_under_masks(case: Case, base: Masks | FastV | None) -> None:
    n, cut, visual = len(case.prompt.ids), cut_of(base), case.visual
    plain = case.reference.run(case.prompt, GENERATED, base)
    everything = case.reference.run(case.prompt, GENERATED, VisionPulse(1, 0.5, 1, 1, base))
    torch.testing.assert_close(everything.logits, plain.logits, **CLOSE)
    kept, rest = sets(case, plain)
    for anchor in range(DEPTH):
        for tau, b_min, b_max in [(1.0, 0.0, 1.0), (0.25, 0.3, 0.6), (3.0, 0.01, 0.02)][anchor % 2 :: 2]:
            result = case.reference.run(case.prompt, GENERATED, VisionPulse(anchor, tau, b_min, b_max, base))
            in_anchor = list(range(len(visual))) if anchor < cut else kept
            sees = causal(n + PASSES).repeat(DEPTH, 1, 1)
            for i in range(DEPTH):
                if i >= cut:
                    sees[i][:, [visual[j] for j in rest]] = False
                    sees[i] |= torch.eye(n + PASSES, dtype=torch.bool)  # rows of no use, but numbers
                for t, pulse in enumerate(result.pulses if i >= anchor else [], 1):
                    gone = [visual[j] for j in range(len(visual)) if j not in pulse.kept]
                    sees[i, n + t - 1, gone] = False
            there = torch.ones(n + PASSES, dtype=torch.bool)
            there[[visual[j] for j in range(len(visual)) if j not in in_anchor]] = False
            logits, attention = under_masks(case, sees, anchor, there)
            torch.testing.assert_close(result.logits, logits, **CLOSE)
            assert (result.logits - plain.logits).abs().max() > 1e-3
            torch.testing.assert_close(result.logits[0], plain.logits[0], **CLOSE)
            columns = [visual[j] for j in in_anchor]
            for t, pulse in enumerate(result.pulses, 1):
                z = attention[:, t].log()  # but for a constant in each head
                mass = float((z / tau).softmax(-1)[:, columns].sum(-1).max())
                assert pulse.mass == pytest.approx(mass, abs=1e-5)
                assert pulse.k == len(pulse.kept) == max(1, math.floor(min(max(mass, b_min), b_max) * len(columns)))
                assert pulse.kept == sorted(in_anchor[j] for j in top(z[:, columns].mean(0), pulse.k))


def test_length_of_the_whole(case: Case) -> None:
    """Generated rows are in `hidden` too, and the references' greedy decoding takes these rules."""
    for rule in (VisionPulse(2, 0.5, 0.1, 0.3), DSTP(BASES[1], 2, 0.99, 3)):
        tokens = case.reference.greedy(case.prompt, 4, rule)
        result = case.reference.run(case.prompt, tokens, rule)
        assert len(result.hidden) == DEPTH + 1
        assert all(len(x) == len(case.prompt.ids) + 4 for x in result.hidden)
        assert result.logits[:4].argmax(-1).tolist() == tokens
