"""RESTORE in the engine against a decoder that builds its sequence, its sizes and every bias by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.engine import Decoding, Engine, Request
from harness.models import Model
from pruners import RESTORE, DivPrune, FasterVLM, NoPruning, Pruner, Random
from tests.conftest import prompts
from tests.engine.test_reference import drive, forced_tokens, reference_prompt
from tests.pruners.test_restore import by_hand
from tests.reference import decoder as slow


def of_pictures(n: int) -> Request:
    return next(r for r in prompts(40) if sum(not isinstance(p, str) for p in r.content) == n)


def reduced(prompt: slow.Prompt, picked: list[list[int]], budgets: list[int]) -> tuple[slow.Prompt, Tensor]:
    """The sequence that RESTORE leaves, with its position ids, and the size of every row."""
    rows: list[tuple[int, Tensor, list[Tensor], float]] = []  # place, embedding, DeepStack rows, size
    flat, start = [at for picture in prompt.pictures for at in picture], 0
    for picture, own, budget in zip(prompt.pictures, picked, budgets, strict=True):
        other = [j for j in range(len(picture)) if j not in own]
        groups = [[j] for j in own]
        if budget < len(picture):
            tokens = prompt.embeds[[picture[j] for j in other]].tolist()
            groups += [[other[j] for j in group] for group in by_hand(tokens, budget - len(own))]
        for group in groups:
            at = [picture[j] for j in group]
            deep = [rows[[start + j for j in group]].mean(0) for rows in prompt.deepstack]
            rows.append((at[(len(at) - 1) // 2], prompt.embeds[at].mean(0), deep, float(len(at))))
        start += len(picture)
    left = sorted(rows, key=lambda row: row[0])
    kept = {row[0]: row for row in left}
    text = [at for at in range(len(prompt.ids)) if at not in flat]
    order = sorted([*text, *kept])
    new = slow.Prompt(
        ids=[prompt.ids[at] for at in order],
        embeds=torch.stack([kept[at][1] if at in kept else prompt.embeds[at] for at in order]),
        positions=prompt.positions[:, order],
        pictures=[[i for i, at in enumerate(order) if at in set(picture)] for picture in prompt.pictures],
        deepstack=[torch.stack([row[2][i] for row in left]) for i in range(len(prompt.deepstack))],
    )
    return new, torch.tensor([kept[at][3] if at in kept else 1.0 for at in order])


def biased_logits(brute: slow.Decoder, prompt: slow.Prompt, size: Tensor, forced: list[int], repaired: bool) -> Tensor:
    """Logits of the last prompt token and of each forced one, every (query, key, layer) with its own bias."""
    rows = brute.rows(prompt, forced)
    n, every = len(prompt.ids), len(prompt.ids) + len(forced)
    size = torch.cat([size, torch.ones(len(forced))])
    uneven = bool((size > 1).any())
    is_visual = torch.zeros(every, dtype=torch.bool)
    is_visual[rows.visual] = True
    near = torch.stack([(rows.angles[i] - rows.angles).cos().mean(1) for i in range(every)])
    far = (2 - near).log()
    if not repaired:
        far[n:] = 0
    x = rows.embeds
    for i in range(brute.depth):
        q, k, v = brute.project(i, x, rows.angles)
        sizes = torch.where(is_visual, size[is_visual].sum() / is_visual.sum(), size) if i == 0 else size
        bias = (sizes.log() + far) * uneven
        logits = q @ k.transpose(1, 2) / math.sqrt(brute.head_dim) + bias
        logits = logits.masked_fill(torch.ones(every, every, dtype=torch.bool).triu(1), -torch.inf)
        name = f"model.language_model.layers.{i}"
        x = x + brute.linear(name + ".self_attn.o_proj", (logits.softmax(-1) @ v).transpose(0, 1).flatten(1))
        y = brute.rms_norm(name + ".post_attention_layernorm", x)
        y = F.silu(brute.linear(name + ".mlp.gate_proj", y)) * brute.linear(name + ".mlp.up_proj", y)
        x = x + brute.linear(name + ".mlp.down_proj", y) + rows.deepstack[i]
    return brute.head(x[n - 1 :])


@pytest.mark.parametrize("repaired", [False, True], ids=["official", "repaired"])
@pytest.mark.parametrize("base", [DivPrune(keep=0.4), Random(keep=None, tokens=5)], ids=["divprune", "random"])
@pytest.mark.parametrize("pictures", [1, 2])
def test_equals_a_decoder_with_every_bias_by_hand(
    model: Model, base: DivPrune | Random, pictures: int, repaired: bool
) -> None:
    if isinstance(base, Random) and model.info.unit == 4 and pictures == 1 and not model.info.native:
        base = Random(keep=0.7)
    request, forced = of_pictures(pictures), forced_tokens(model, 4)
    prompt = model.prepare(request)
    brute, theirs = reference_prompt(model, prompt)
    ours = drive(model, request, RESTORE(base=base, repaired=repaired), forced)
    counts = [len(picture) for picture in theirs.pictures]
    budgets = [base.count(n) for n in counts]
    picked = []
    for number, (n, k) in enumerate(zip(counts, budgets, strict=True)):
        half = type(base)(keep=None, tokens=max(1, k // 2))
        alone = drive(model, request, half, forced[:1]).done.segment
        starts = sum(counts[:number])
        own = [c - starts for c in alone.column.tolist() if starts <= c < starts + n]
        picked.append(list(range(n)) if k >= n else own if k > 1 else [])
    left, size = reduced(theirs, picked, budgets)
    assert ours.done.segment.lengths == [len(left.ids)] * model.info.depth
    want = biased_logits(brute, left, size, forced, repaired)
    torch.testing.assert_close(ours.logits, want.float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("base", [DivPrune(keep=1.0), FasterVLM(keep=None, tokens=9999)], ids=str)
def test_without_reduction_nothing_changes(model: Model, base: Pruner) -> None:
    """A budget that everything fits into, and prompts without pictures."""
    requests, decoding = prompts(6), Decoding(max_new_tokens=8)
    want = [t.token_ids for t in Engine(model).run(requests, NoPruning(), decoding)]
    assert [t.token_ids for t in Engine(model).run(requests, RESTORE(base=base), decoding)] == want
