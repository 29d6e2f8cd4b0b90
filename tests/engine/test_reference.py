"""Engine against the brute-force reference: full attention matrices, explicit masks, no cache."""

from __future__ import annotations

import ast
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness.engine import Decoding, Request
from harness.engine.cache import SlotCache
from harness.engine.decode import Decode
from harness.engine.parts import ignore
from harness.engine.prefill import Prefill
from harness.engine.vision import FeatureCache, Vision
from harness.models import Model
from pruners import FastV, NoPruning, Pruner, Random
from tests.conftest import prompts
from tests.reference import qwen3_vl as reference
from tests.tiny import CONFIGS, Prompted

STEPS = 20


def engine_logits(model: Model, request: Request, pruner: Pruner, forced: list[int]) -> tuple[Tensor, list[int]]:
    """Logits [1 + steps, V] under teacher forcing, and the visual tokens that the last layer keeps."""
    prompt = model.prepare(request)
    features = Vision(model, pruner, FeatureCache(0), ignore).features(request, prompt)
    (done,) = Prefill(model, pruner, ignore).run([(request, prompt, features)])
    cache = SlotCache(model.dims, model.axes, 1, model.device, model.dtype)
    decode = Decode(model, cache, pruner, ignore)
    cache.admit(0, done.cache, len(forced))
    decode.admit(0, done, {})
    rows = [done.logits]
    for token in forced:
        rows.append(decode.step(torch.full((cache.rows,), token), [0])[0])
    return torch.stack(rows), done.segment.column.tolist()


def compare(model: Model, request: Request, pruner: Pruner) -> None:
    prompt = model.prepare(request)
    brute = reference.Reference(model.net)
    pixels = torch.cat([p.pixels for p in prompt.pictures]) if prompt.pictures else None
    theirs = brute.prompt(prompt.ids.tolist(), pixels, [(1, *p.grid) for p in prompt.pictures])
    forced = [(7 * i + 300) % (model.dims.vocab - 20) + 20 for i in range(STEPS)]
    ours, token = engine_logits(model, request, pruner, forced)
    counts = [rows * columns for rows, columns in prompt.layout.grid.values()]
    starts = [sum(counts[:i]) for i in range(len(counts))]
    kept = [[t - s for t in token if s <= t < s + n] for s, n in zip(starts, counts, strict=True)]
    if isinstance(pruner, FastV):
        rule: reference.FastV | reference.Masks = reference.FastV(
            pruner.layers(model.info.depth)[0], [pruner.count(n) for n in counts]
        )
    else:  # the random draw is the engine's; its consequences are the reference's
        rule = reference.Masks({0: kept})
    result = brute.run(theirs, forced, rule)
    assert [sorted(k) for k in result.kept] == kept
    torch.testing.assert_close(ours, result.logits.float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pruner", [NoPruning(), Random(), FastV(), FastV(keep=1 / 9, layer=3)], ids=str)
@pytest.mark.parametrize("pictures", [1, 2, 3])
def test_logits_equal_brute_force(model: Model, pruner: Pruner, pictures: int) -> None:
    """20 decode steps, with DeepStack, pictures of different sizes and text between them."""
    request = next(r for r in prompts(40) if sum(not isinstance(p, str) for p in r.content) == pictures)
    compare(model, request, pruner)


@pytest.mark.parametrize(
    "pruner", [NoPruning(), Random(), FastV(layer=1), FastV(layer=2), FastV(keep=1 / 9, layer=4)], ids=str
)
def test_other_shapes(pruner: Pruner) -> None:
    """Untied head, three queries to a key, DeepStack rows added after layers 0 and 1: tokens leave between the two."""
    model = Prompted(deepcopy(CONFIGS["untied"]), "cpu", [(8, 12), (12, 6)])
    with torch.no_grad():  # fresh norms and small weights would hide mistakes
        for name, weight in model.net.named_parameters():
            weight.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.2)
    compare(model, Request("r", ()), pruner)


def test_reference_is_independent() -> None:
    """The reference may not borrow from what it judges."""
    tree = ast.parse(Path(reference.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not [name for name in names if name.split(".")[0] in ("harness", "pruners")]


def test_greedy_decoding_default() -> None:
    """The defaults are greedy and unpenalised, as the protocols assume."""
    d = Decoding()
    assert (d.temperature, d.top_p, d.top_k, d.repetition_penalty, d.presence_penalty) == (0.0, 1.0, 0, 1.0, 0.0)
