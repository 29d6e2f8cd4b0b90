"""Methods that edit the cache: decoding equals a reference that evicts by loops, and savings are counted right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.engine import Decoding, Engine, Request
from harness.engine.evidence import Evidence
from harness.models import Model
from pruners import Box, LookM, Pruner, VLCache
from tests.conftest import drawn, prompts, tiny
from tests.engine.test_reference import drive, forced_tokens, of_pictures, reference_prompt, wide
from tests.pruners.test_lookm import expected
from tests.pruners.test_vlcache import budgets
from tests.tiny import BY_FAMILY, CONFIGS, Prompted

STEPS = 6
Heads = list[tuple[list[int], list[list[float]], list[list[float]]]]
"""Of every key-value head: entries that stay, their keys, their values."""

Evict = Callable[[str, list[Tensor], list[list[Tensor]]], list[Heads]]
"""From the letters of the prompt ("v" or "t"), attention [H, n, n] and keys and values [Hkv, n, d] of all layers."""


def by_lookm(pruner: LookM) -> Evict:
    def evict(marks: str, attention: list[Tensor], cache: list[list[Tensor]]) -> list[Heads]:
        assert pruner.keep is not None
        budget, layers = int(len(marks) * pruner.keep), list[Heads]()
        for weights, (keys, values) in zip(attention, cache, strict=True):
            score = weights.sum(1).view(len(keys), -1, len(marks)).mean(1).tolist()
            layers.append(
                [
                    expected(marks, s, k.tolist(), v.tolist(), budget - budget // 2, budget // 2, pruner.merge)
                    for s, k, v in zip(score, keys, values, strict=True)
                ]
            )
        return layers

    return evict


def by_vlcache(pruner: VLCache) -> Evict:
    def evict(marks: str, attention: list[Tensor], cache: list[list[Tensor]]) -> list[Heads]:
        n, after = len(marks), len(marks) - 1 - marks.rfind("v")
        sparsity, layers = [], list[Heads]()
        for weights in attention:
            shares = []
            for head in weights[:, n - after :].tolist():
                rows = [row[: i + 1] for i, row in enumerate(head, n - after)]
                small = [w for row in rows for w in row if w < pruner.threshold * max(row)]
                shares.append(len(small) / sum(map(len, rows)))
            sparsity.append(sum(shares) / len(shares))
        recent = max(1, int(n * pruner.keep * pruner.window))
        for weights, share, (keys, values) in zip(
            attention, budgets(sparsity, pruner.keep, pruner.window), cache, strict=True
        ):
            score = weights[:, n - after :].sum((0, 1)).tolist()
            best = sorted(range(n - recent), key=lambda i, s=score: -s[i])[: max(1, int(share * n))]  # type: ignore[misc]
            kept = sorted(best) + list(range(n - recent, n))
            layers.append([(kept, k[kept].tolist(), v[kept].tolist()) for k, v in zip(keys, values, strict=True)])
        return layers

    return evict


def reference(model: Model, request: Any, evict: Evict, forced: list[int]) -> tuple[Tensor, list[Heads]]:
    """Logits [1 + steps, V] of a full prefill and a decoding over what an eviction leaves; and what it leaves."""
    prompt = model.prepare(request)
    brute, theirs = reference_prompt(model, prompt)
    rows, attention = brute.rows(theirs, forced), list[Tensor]()
    layer, n, group = brute.layer, rows.n, model.dims.heads // model.dims.kv_heads

    def watched(*args: Any) -> Any:
        out = layer(*args)
        attention.append(out[2][:, :n, :n])
        return out

    brute.layer = watched
    hidden = brute.together(theirs, n, rows, None).hidden[-1][[-1]]
    brute.layer, logits = layer, [brute.head(hidden)]
    marks = "".join("v" if i in rows.visual else "t" for i in range(n))
    cache = [[x[i][::group, :n].clone() for x in (rows.keys, rows.values)] for i in range(brute.depth)]
    left = evict(marks, attention, cache)
    for i, heads in enumerate(left):  # in the place of the prompt's first entries, all of which are forgotten
        keys, values = (torch.tensor([head[j] for head in heads]) for j in (1, 2))
        rows.keys[i][:, : keys.shape[1]] = keys.repeat_interleave(group, dim=0)
        rows.values[i][:, : keys.shape[1]] = values.repeat_interleave(group, dim=0)
    for row in range(n, n + len(forced)):
        x = rows.embeds[[row]]
        for i, heads in enumerate(left):
            sees = (torch.arange(rows.known.shape[1]) <= row) & (torch.arange(rows.known.shape[1]) >= n)
            sees[: len(heads[0][0])] = True
            x = layer(i, x, [row], sees[None], rows)[0]
        logits.append(brute.head(x))
    return torch.cat(logits), left


METHODS: dict[str, tuple[Pruner, Evict]] = {
    "pivotal": (lookm := LookM(keep=0.3), by_lookm(lookm)),
    "weighted": (lookm := LookM(keep=0.6, merge="weighted"), by_lookm(lookm)),
    "vl_cache": (vlcache := VLCache(keep=0.3, threshold=0.1), by_vlcache(vlcache)),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", [*BY_FAMILY, "trained"])
def test_decoding_equals_brute_force(name: str, family: str) -> None:
    """Two pictures, keys that three queries share, M-RoPE and DeepStack; entries that differ from head to head."""
    pruner, evict = METHODS[name]
    model = tiny("trained") if family == "trained" else wide(family)
    request = replace(of_pictures(2), needed=(Box(0, 0.0, 0.0, 0.6, 0.6),))
    forced = forced_tokens(model, STEPS)
    ours = drive(model, request, pruner, forced)
    theirs, left = reference(model, request, evict, forced)
    torch.testing.assert_close(ours.logits, theirs.float(), atol=1e-4, rtol=1e-4)
    full = drive(model, request, Pruner(), forced).logits
    assert (full[1:] - theirs[1:]).abs().max() > 1e-3, "evicts nothing that matters"
    assert [cache.keys.shape[1] for cache in ours.done.cache] == [len(heads[0][0]) for heads in left]
    for cache, heads in zip(ours.done.cache, left, strict=True):
        visual = {at: j for j, at in enumerate(model.prepare(request).visual.tolist())}
        assert cache.column.tolist() == [[visual.get(at, -2) for at in kept] for kept, _, _ in heads]
        assert cache.visual == sum(at in visual for at in heads[0][0])
    boxed = model.prepare(request).layout.shows(request.needed)[0].nonzero().flatten().tolist()
    needed = {model.prepare(request).visual[j].item() for j in boxed}
    seen = [len(needed & set(kept)) / len(needed) for heads in left for kept, _, _ in heads]
    evidence = Evidence.of(ours.done)
    assert evidence is not None and evidence.runs[0][1] == [pytest.approx(sum(seen) / len(seen), abs=1e-5)]


@pytest.mark.parametrize("family", ["qwen3_vl", "llava"])
def test_bytes_are_those_of_what_is_left(family: str) -> None:
    """Samples of unequal length, decoded together and alone: entries, bytes and FLOPs counted by hand."""
    model, steps = tiny("random") if family == "qwen3_vl" else drawn(family), 4
    d, requests = model.dims, prompts(6)
    pruner, new = LookM(keep=0.3), Decoding(max_new_tokens=steps + 1, ignore_eos=True)
    together = {t.id: t for t in Engine(model, slots=5).run(requests, pruner, new)}
    full = {t.id: t for t in Engine(model).run(requests, Pruner(), new)}
    entry = 2 * d.kv_heads * d.head_dim * 4
    for request in requests:
        prompt, trace = model.prepare(request), together[request.id]
        n, visual = len(prompt.ids), set(prompt.visual.tolist())
        recent = int(n * 0.3) // 2
        text = sum(i not in visual for i in range(n - recent))
        kept = min(n, max(text, int(n * 0.3) - recent) + recent) if visual else n
        assert trace.error is None
        assert trace.kv_bytes["resident"] == d.depth * (kept + steps) * entry
        assert trace.kv_bytes["visible"] == round(d.depth * (kept + (steps + 1) / 2) * entry)
        assert trace.kv_bytes["allocated"] <= full[request.id].kv_bytes["allocated"]
        if visual:
            assert trace.kv == pytest.approx((kept - n + len(visual)) / len(visual)) == trace.ret_decode
            assert trace.ret_prefill == 1.0
        saved = full[request.id].flops["decode"] - trace.flops["decode"]
        assert saved == 4 * d.heads * d.head_dim * d.depth * (n - kept) * steps
        (alone,) = Engine(model, slots=1).run([request], pruner, new)
        assert alone.token_ids == trace.token_ids
        assert {k: v for k, v in alone.kv_bytes.items() if k != "allocated"} == {
            k: v for k, v in trace.kv_bytes.items() if k != "allocated"
        }


def test_nothing_is_less_than_nothing() -> None:
    """Without values what leaves counts as visual first, even where text has to leave too."""
    model = Prompted(CONFIGS["llava"], "meta", [(1, 1)], text=40)
    (trace,) = Engine(model).run([Request("s", ())], VLCache(keep=0.1), Decoding(max_new_tokens=2, ignore_eos=True))
    assert trace.kv == 0 and trace.kv_bytes["resident"] > 0
