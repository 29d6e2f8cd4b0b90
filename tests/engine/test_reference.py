"""Engine against the brute-force references: full attention matrices, explicit masks, no cache."""

from __future__ import annotations

import ast
import importlib
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from harness.engine import Decoding, Request
from harness.engine.cache import SlotCache
from harness.engine.decode import Decode
from harness.engine.features import FeatureCache
from harness.engine.parts import ignore
from harness.engine.prefill import Prefill, Prefilled
from harness.engine.vision import Vision
from harness.models import Model
from harness.models.base import Prompt
from pruners import DSTP, DivPrune, FastV, NoPruning, Pipeline, Pruner, Random, VisionPulse
from pruners.views import StepView
from tests.conftest import drawn, prompts, tiny
from tests.reference import decoder as rules
from tests.tiny import BY_FAMILY, CONFIGS, Grid, Prompted

STEPS = 20


@dataclass
class Driven:
    """Logits [1 + steps, V] under teacher forcing, and what step methods did on the way."""

    logits: Tensor
    done: Prefilled
    read: list[list[float]] = field(default_factory=list)
    triggers: list[int] = field(default_factory=list)
    visible: list[list[int]] = field(default_factory=list)


def drive(model: Model, request: Request, pruner: Pruner, forced: list[int]) -> Driven:
    """One sample through prefill and forced decode steps."""
    pruner.check(model.info)
    pruner = pruner.resolved(model.info)
    prompt = model.prepare(request)
    features = Vision(model, pruner, FeatureCache(0), ignore).features([(request, prompt)])[0]
    prefill = Prefill(model, pruner, ignore)
    (done,) = prefill.run([(request, prompt, features)])
    cache = SlotCache(model.dims, model.axes, 1, model.device, model.dtype)
    decode = Decode(model, cache, pruner, ignore)
    cache.admit(0, done.cache, len(forced) + 1 + sum(len(part.index) for part in done.segment.held or []))
    decode.admit(0, done, prefill.begin(done))
    rows, out = [done.logits], Driven(done.logits, done)
    for t, token in enumerate(forced, 1):
        step = decode.step
        out.visible.append(torch.nonzero(step.decided[0]).flatten().tolist())
        step.tokens.fill_(token)
        rows.append(decode.advance([0])[0])
        if decode.stepper:
            out.read.append(step.read[:, 0].tolist())
            out.triggers += [t] if step.triggers[0] else []
    out.logits = torch.stack(rows)
    return out


def engine_logits(model: Model, request: Request, pruner: Pruner, forced: list[int]) -> tuple[Tensor, list[int]]:
    """Logits, and the visual tokens that the last layer keeps."""
    driven = drive(model, request, pruner, forced)
    return driven.logits, driven.done.segment.column.tolist()


def forced_tokens(model: Model, steps: int = STEPS) -> list[int]:
    return [(7 * i + 300) % (model.dims.vocab - 20) + 20 for i in range(steps)]


def reference_prompt(model: Model, prompt: Prompt) -> tuple[Any, Any]:
    """The reference of a model's family, and the prompt as it sees it."""
    family = model.net.config.model_type
    brute = importlib.import_module(f"tests.reference.{family}").Reference(model.net)
    pixels = torch.cat([p.pixels for p in prompt.pictures]) if prompt.pictures else None
    if family == "qwen3_vl":
        shapes: list[Any] = [(1, *p.grid) for p in prompt.pictures]
    else:
        shapes = [len(p.pixels) for p in prompt.pictures]
    return brute, brute.prompt(prompt.ids.tolist(), pixels, shapes)


def per_picture(prompt: Prompt, token: list[int]) -> list[list[int]]:
    """Visual tokens of a prompt, counted within their pictures."""
    counts = torch.bincount(prompt.layout.picture, minlength=len(prompt.pictures)).tolist()
    starts = [sum(counts[:i]) for i in range(len(counts))]
    return [[t - s for t in token if s <= t < s + n] for s, n in zip(starts, counts, strict=True)]


def reference_rule(model: Model, prompt: Prompt, pruner: Pruner, kept: list[int]) -> Any:
    """The reference's own rule where it has one; for a draw or a greedy choice, what was kept is given."""
    if isinstance(pruner, FastV):
        counts = torch.bincount(prompt.layout.picture, minlength=len(prompt.pictures)).tolist()
        return rules.FastV(pruner.layers(model.info.depth)[0], [pruner.count(n) for n in counts])
    return rules.Masks({0: per_picture(prompt, kept)})


def of_pictures(n: int) -> Request:
    return next(r for r in prompts(40) if sum(not isinstance(p, str) for p in r.content) == n)


def keeping(pruner: Pruner) -> Pruner:
    """The same method under the position ids of the full prompt, as the references count."""
    return replace(pruner, positions="keep") if hasattr(pruner, "positions") else pruner  # type: ignore[call-arg]


def compare(model: Model, request: Request, pruner: Pruner) -> None:
    prompt = model.prepare(request)
    brute, theirs = reference_prompt(model, prompt)
    forced = forced_tokens(model)
    ours, token = engine_logits(model, request, keeping(pruner), forced)
    result = brute.run(theirs, forced, reference_rule(model, prompt, pruner, token))
    assert [sorted(k) for k in result.kept] == per_picture(prompt, token)
    torch.testing.assert_close(ours, result.logits.float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pruner", [NoPruning(), Random(), DivPrune(), FastV(), FastV(keep=1 / 9, layer=3)], ids=str)
@pytest.mark.parametrize("pictures", [1, 2, 3])
def test_logits_equal_brute_force(model: Model, pruner: Pruner, pictures: int) -> None:
    """20 decode steps, with DeepStack or tiles, pictures of different sizes and text between them."""
    compare(model, of_pictures(pictures), pruner)


SHAPES: dict[str, list[Grid]] = {"untied": [(8, 12), (12, 6)], "internvl_norms": [(1, 1), (2, 2)]}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pruner", [NoPruning(), Random(), FastV(layer=1), FastV(keep=1 / 9, layer=3)], ids=str)
def test_other_shapes(pruner: Pruner, shape: str) -> None:
    """Untied head and three queries to a key, with DeepStack in two layers; a biased Qwen2 under another tower."""
    model = Prompted(CONFIGS[shape], "cpu", SHAPES[shape])
    with torch.no_grad():  # fresh norms and small weights would hide mistakes
        for name, weight in model.net.named_parameters():
            weight.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.2)
    compare(model, Request("r", ()), pruner)


@pytest.mark.parametrize("pruner", [Random(), DivPrune(keep=1 / 9)], ids=str)
def test_renumbering_is_a_shorter_prompt(pruner: Pruner) -> None:
    """On LLaVA a method before the language model leaves a prompt that never had the other tokens."""
    model, request = drawn("llava"), of_pictures(2)
    prompt, forced = model.prepare(request), forced_tokens(drawn("llava"))
    ours, token = engine_logits(model, request, pruner, forced)
    brute, theirs = reference_prompt(model, prompt)
    gone = set(prompt.visual.tolist()) - set(prompt.visual[token].tolist())
    rows = [i for i in range(len(prompt.ids)) if i not in gone]
    shorter = replace(
        theirs, ids=[theirs.ids[i] for i in rows], embeds=theirs.embeds[rows],
        positions=torch.arange(len(rows))[None], pictures=[],
    )  # fmt: skip
    torch.testing.assert_close(ours, brute.run(shorter, forced).logits.float(), atol=1e-4, rtol=1e-4)


PULSES = {  # with budgets that cut the mass off above, below, and not at all
    "above": VisionPulse(tau=0.4, low=0.01, high=0.05), "below": VisionPulse(tau=0.4, low=0.9, high=0.95),
    "inside": VisionPulse(tau=0.8, low=0.0, high=1.0),
    "fastv": Pipeline(methods=(FastV(), VisionPulse(tau=0.4, low=0.1, high=0.4, anchor=3))),
}  # fmt: skip


@pytest.mark.parametrize("name", PULSES)
def test_visionpulse_equals_brute_force(model: Model, name: str) -> None:
    """Inside, above and below its clamp, and on top of FastV; the keys read are counted right too."""
    request, forced = of_pictures(2), forced_tokens(model)
    prompt = model.prepare(request)
    ours = drive(model, request, PULSES[name], forced)
    *base, pulse = PULSES[name].stages()
    assert isinstance(pulse, VisionPulse)
    brute, theirs = reference_prompt(model, prompt)
    rule = reference_rule(model, prompt, base[0], []) if base else None
    anchor = pulse.step_layer(model.info.depth)
    result = brute.run(theirs, forced, rules.VisionPulse(anchor, pulse.tau, pulse.low, pulse.high, rule))
    torch.testing.assert_close(ours.logits, result.logits.float(), atol=1e-4, rtol=1e-4)
    n = ours.done.segment.visual_per_layer
    assert ours.read == [[*n[:anchor]] + [p.k] * (len(n) - anchor) for p in result.pulses]
    where = {
        "above": lambda mass: mass > pulse.high, "below": lambda mass: mass < pulse.low,
        "inside": lambda mass: pulse.low < mass < pulse.high, "fastv": bool,
    }  # fmt: skip
    # Forced words make no sense to the trained model, so that it hardly looks at the picture.
    assert model is tiny("trained") or any(where[name](p.mass) for p in result.pulses)


@dataclass(frozen=True, kw_only=True)
class Scripted(DSTP):
    """DSTP that triggers at given steps instead of by its rule."""

    at: ClassVar[frozenset[int]] = frozenset({2, 9, 17, 24})

    def _shifted(self, view: StepView, similarity: Tensor) -> Tensor:
        return torch.tensor([int(step) + 1 in self.at for step in view.step])


BASES = {"fastv": FastV(keep=0.3), "fastv_late": FastV(keep=0.3, layer=3), "divprune": DivPrune(keep=0.3)}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {}, "joint": {"joint": True}, "full": {"swap": "full"}, "hard": {"swap": "hard", "joint": True},
    "merge": {"swap": "merge", "joint": True}, "no_reversion": {"reversion": False, "joint": True},
    "layer_1": {"layer": 1, "joint": True}, "layer_3": {"layer": 3, "joint": True},
}  # fmt: skip


@cache
def wide(family: str) -> Model:
    """Two pictures and loud weights, so that every choice matters."""
    grids: dict[str, list[Grid]] = {"qwen3_vl": [(8, 12), (12, 6)], "internvl": [(2, 1), (1, 1)]}
    return Prompted(CONFIGS[BY_FAMILY[family]], "cpu", grids.get(family, [(1, 1), (1, 1)]), noise=0.2)


def dstp_rule(model: Model, prompt: Prompt, add_on: DSTP, kept: list[int], **options: Any) -> rules.DSTP:
    return rules.DSTP(
        reference_rule(model, prompt, add_on.base, kept), add_on.step_layer(model.info.depth), add_on.tau, add_on.L,
        add_on.recall, add_on.joint, add_on.swap, add_on.reversion, **options,
    )  # fmt: skip


EVERY = [
    (family, base, recall, variant)
    for family in BY_FAMILY for base in BASES for recall in ("recompute", "shadow", "dense") for variant in VARIANTS
    if family == "qwen3_vl" or variant in ("default", "joint") or (family == "llava" and base != "fastv_late")
]  # fmt: skip


@pytest.mark.parametrize(("family", "base", "recall", "variant"), EVERY)
def test_dstp_equals_brute_force(family: str, base: str, recall: Any, variant: str) -> None:
    """Two pictures, triggers at scripted steps, tokens that come back a second time, reversions between."""
    model, request = wide(family), Request("r", ())
    prompt, forced = model.prepare(request), forced_tokens(model, 30)
    add_on = Scripted(base=BASES[base], L=5, recall=recall, **VARIANTS[variant])
    ours = drive(model, request, add_on, forced)
    brute, theirs = reference_prompt(model, prompt)
    rule = dstp_rule(model, prompt, add_on, ours.visible[0], forced_triggers=Scripted.at)
    result = brute.run(theirs, forced, rule)
    active = [step.active for step in result.steps]
    assert ours.visible == active
    torch.testing.assert_close(ours.logits, result.logits.float(), atol=1e-4, rtol=1e-4)
    first = add_on.base.layers(model.info.depth)[0] if add_on.base.layers(model.info.depth) else 0
    if variant != "merge":  # which reads one entry more
        assert ours.read == [[len(prompt.visual)] * first + [len(seen)] * (model.info.depth - first) for seen in active]
    if variant == "joint":
        spells = [set(active[t]) - set(active[0]) for t in sorted(Scripted.at)]
        assert spells[0] & spells[1] and spells[1] - spells[0], "nothing comes back twice, or nothing new"
        assert active[8] == active[0], "no reversion between the spells"


@pytest.mark.parametrize("base", ["fastv", "divprune"])
@pytest.mark.parametrize("family", BY_FAMILY)
def test_dstp_triggers_by_its_own_rule(family: str, base: str) -> None:
    """Cosine against the anchor of the last prompt token, watched in every step outside a spell."""
    model, request = wide(family), Request("r", ())
    prompt, forced = model.prepare(request), forced_tokens(model, 30)
    brute, theirs = reference_prompt(model, prompt)
    add_on = DSTP(base=BASES[base], L=3, tau=-2, joint=True)
    quiet = drive(model, request, add_on, forced)
    assert quiet.triggers == []
    cosines = brute.run(theirs, forced, dstp_rule(model, prompt, add_on, quiet.visible[0])).steps
    add_on = replace(add_on, tau=median(step.cosine for step in cosines) + 1e-3)
    ours = drive(model, request, add_on, forced)
    result = brute.run(theirs, forced, dstp_rule(model, prompt, add_on, ours.visible[0]))
    assert ours.triggers == result.triggers != []
    assert len(ours.triggers) < 30 / 4, "triggers whenever it may: the rule was not asked"
    torch.testing.assert_close(ours.logits, result.logits.float(), atol=1e-4, rtol=1e-4)


def test_references_are_independent() -> None:
    """The references may not borrow from what they judge."""
    for file in Path(rules.__file__).parent.glob("*.py"):
        if file.name.startswith("test_"):
            continue
        tree = ast.parse(file.read_text())
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not [name for name in names if name.split(".")[0] in ("harness", "pruners")]


def test_greedy_decoding_default() -> None:
    """The defaults are greedy and unpenalised, as the protocols assume."""
    d = Decoding()
    assert (d.temperature, d.top_p, d.top_k, d.repetition_penalty, d.presence_penalty) == (0.0, 1.0, 0, 1.0, 0.0)
