"""`record="attention"` against the eager attention of the stock models, and against what traces say."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.engine import Decoding, Engine, Request, Trace
from harness.models import Model
from harness.models.base import Prompt
from pruners import DSTP, Box, DivPrune, FastV, NoPruning, Pipeline, Pruner, VisionPulse
from tests.conftest import prompts
from tests.tiny import BY_FAMILY, CONFIGS, Grid, Prompted, stock_inputs

STEPS = 14
FORCED = tuple((7 * i + 300) % 100 + 20 for i in range(STEPS))
LONG = Decoding(max_new_tokens=STEPS, ignore_eos=True)
NEEDED = (Box(0, 0.0, 0.0, 0.25, 1 / 6), Box(1, 0.4, 0.4, 0.6, 0.6))
DELTAS, TEMPERATURES = (0.0005, 0.001, 0.0015, 0.002), (0.4, 0.1)


@cache
def wide(family: str) -> Prompted:
    """Two pictures, and long queries so that attention has peaks."""
    grids: dict[str, list[Grid]] = {"qwen3_vl": [(8, 12), (12, 6)], "internvl": [(2, 1), (1, 1)]}
    model = Prompted(CONFIGS[BY_FAMILY[family]], "cpu", grids.get(family, [(1, 1), (1, 1)]), noise=0.2)
    for layer in model.layers:
        attention: Any = layer.self_attn
        with torch.no_grad():
            getattr(attention, "q_norm", attention.q_proj).weight.mul_(4)
    return model


@pytest.fixture(params=list(BY_FAMILY))
def loud(request: pytest.FixtureRequest) -> Prompted:
    return wide(request.param)


def run(model: Model, pruner: Pruner, record: Any = "attention", forced: tuple[int, ...] = FORCED) -> Trace:
    request = Request("s", (), needed=NEEDED, forced=forced)
    (trace,) = Engine(model).run([request], pruner, LONG, record=record)
    assert trace.error is None
    return trace


@torch.no_grad()
def eager(model: Model, prompt: Prompt, reply: tuple[int, ...]) -> tuple[Tensor, list[Tensor]]:
    """Logits [STEPS, V] that wrote the reply's tokens, and per layer attention [H, STEPS, L + STEPS - 1] of those rows,
    from one pass of the stock model over prompt and reply."""
    net = type(model.net)._from_config(deepcopy(model.net.config), attn_implementation="eager").eval()
    net.load_state_dict(model.net.state_dict())
    given = stock_inputs(model, prompt)
    more = torch.tensor([reply[:-1]])
    given["input_ids"] = torch.cat([given["input_ids"], more], dim=1)
    given["attention_mask"] = torch.ones_like(given["input_ids"])
    if "mm_token_type_ids" in given:
        given["mm_token_type_ids"] = torch.cat([given["mm_token_type_ids"], torch.zeros_like(more).int()], dim=1)
    out = net(**given, output_attentions=True)
    first = len(prompt.ids) - 1
    return out.logits[0, first:], [layer[0, :, first:].double() for layer in out.attentions]


def measured(weights: Tensor, visual: Tensor) -> Tensor:
    """[STEPS, 8] what is recorded of one layer's weights [H, STEPS, n], written down from its definition."""
    seen = weights[..., visual]
    alone = (seen / seen.sum(-1, keepdim=True)).mean(0)
    columns = [(alone * alone[0]).sum(-1) / (alone.norm(dim=-1) * alone[0].norm()), seen.sum(-1).mean(0)]
    for temperature in TEMPERATURES:
        sharp = (weights / weights.amax(-1, keepdim=True)) ** (1 / temperature)
        columns.append((sharp[..., visual].sum(-1) / sharp.sum(-1)).max(0).values)
    columns += [(seen.mean(0) > delta).sum(-1) for delta in DELTAS]
    return torch.stack(columns, dim=1)


def test_record_equals_stock_attention(loud: Prompted) -> None:
    """Every measure of every step and layer, what was ever active, and the most attended tokens."""
    prompt, record = loud.prepare(Request("s", ())), run(loud, NoPruning()).attention
    _, attentions = eager(loud, prompt, FORCED)
    names = ["similarity", "mass", "budget_0.4", "budget_0.1", *(f"active_{d}" for d in DELTAS)]
    assert record["measures"] == names and record["deltas"] == list(DELTAS)
    theirs = torch.stack([measured(layer, prompt.visual) for layer in attentions], dim=1)
    ours = torch.tensor(record["steps"], dtype=torch.double)
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=0)
    n = len(prompt.visual)
    assert record["visual_tokens"] == n and record["shown"] == [(0, list(range(n)))]
    assert theirs[:, :, 0].min() < 0.9 and len(theirs[:, :, 4:].unique()) > 5, "nothing tells right from wrong"

    to = [layer[..., prompt.visual].mean(0) for layer in attentions]
    ever = [[int((own > delta).any(0).sum()) for delta in DELTAS] for own in to]
    assert record["ever"] == ever
    mean = torch.stack(to).mean(0)
    for row, (found, weight) in zip(mean, record["top"], strict=True):
        assert len(set(found)) == len(found) == min(16, n)
        highest = torch.tensor(weight, dtype=torch.double)
        torch.testing.assert_close(highest, row.sort(descending=True).values[:16], atol=2e-5, rtol=0)
        torch.testing.assert_close(highest, row[found], atol=2e-5, rtol=0)


def test_forced_replies_and_their_logits(loud: Prompted) -> None:
    """Replies are followed to their end, whatever the model would write; logits come in order."""
    heard: list[Tensor] = []
    request = Request("s", (), forced=FORCED)
    (trace,) = Engine(loud).run(
        [request], NoPruning(), Decoding(max_new_tokens=3), listen=lambda _, logits: heard.append(logits.clone())
    )
    assert trace.token_ids == list(FORCED) and trace.finish == "stop"
    logits, _ = eager(loud, loud.prepare(request), FORCED)
    torch.testing.assert_close(torch.stack(heard), logits.float(), atol=1e-3, rtol=1e-3)
    assert logits.argmax(-1).tolist() != list(FORCED)


def test_places() -> None:
    """Qwen3-VL merges 2 x 2 patches; InternVL's tiles are halves of their picture, the overview shows all of it."""
    record = run(wide("qwen3_vl"), NoPruning()).attention
    grids = [(0, 4, 6), (1, 6, 3)]
    cells = [[p, r / h, c / w, (r + 1) / h, (c + 1) / w] for p, h, w in grids for r in range(h) for c in range(w)]
    torch.testing.assert_close(torch.tensor(record["boxes"]), torch.tensor(cells), atol=1e-5, rtol=0)
    assert record["needed"] == [[0], [24 + 2 * 3 + 1, 24 + 3 * 3 + 1]]
    boxes = run(wide("internvl"), NoPruning()).attention["boxes"]
    side = round((len(boxes) / 4) ** 0.5)  # two tiles, their overview, and the second picture
    assert boxes[0] == [0, 0.0, 0.0, round(0.5 / side, 5), round(1 / side, 5)]
    assert boxes[side**2][1:3] == [0.5, 0.0] and boxes[3 * side**2 - 1] == [0, *[round(1 - 1 / side, 5)] * 2, 1.0, 1.0]
    assert boxes[-1][0] == 1


def shown(record: dict[str, Any]) -> list[set[int]]:
    """The visual tokens that the last layer can read, for every step."""
    runs = [*record["shown"], (len(record["steps"]), [])]
    return [set(now) for (start, now), (end, _) in pairwise(runs) for _ in range(start, end)]


def visible(trace: Trace) -> list[float]:
    """Visual keys read per decode step, mean over layers."""
    return [value for value, times in trace.visible_per_step for _ in range(times)]


@pytest.mark.parametrize("pruner", [FastV(keep=0.3), DivPrune(keep=0.3)], ids=str)
def test_shown_is_what_prefill_kept(loud: Prompted, pruner: Pruner) -> None:
    kept = sorted(run(loud, pruner, "kept").kept[-1]["source"])
    trace = run(loud, pruner)
    assert trace.attention["shown"] == [(0, kept)] and len(kept) < trace.visual_tokens
    assert {len(now) for now in shown(trace.attention)} == {trace.visual_per_layer[-1]}
    assert all(set(found[: len(kept)]) <= set(range(trace.visual_tokens)) for found, _ in trace.attention["top"])


def test_shown_while_visionpulse_selects(loud: Prompted) -> None:
    pulse = VisionPulse(tau=0.4, low=0.05, high=0.5)
    trace, depth = run(loud, pulse), loud.info.depth
    now, anchor, n = shown(trace.attention), pulse.step_layer(depth), trace.visual_tokens
    assert now[0] == set(range(n)) and len(now) == STEPS
    counted = [(anchor * n + (depth - anchor) * len(step)) / depth for step in now[1:]]
    assert visible(trace) == pytest.approx(counted)
    assert len(trace.attention["shown"]) > 3, "the choice never changes"


def test_shown_while_dstp_recalls(loud: Prompted) -> None:
    """Two spells of three steps, each from the step after its trigger on; between them what prefill kept."""
    base = FastV(keep=0.3)
    trace = run(loud, DSTP(base=base, tau=2, L=3, joint=True))
    kept, now, n = set(run(loud, base, "kept").kept[-1]["source"]), shown(trace.attention), trace.visual_tokens
    assert trace.triggers == [1, 5, 9, 13]
    spell = {t + k for t in trace.triggers for k in (1, 2, 3)}
    assert [step > kept for step in now] == [t in spell for t in range(STEPS)]
    assert all(step == kept for t, step in enumerate(now) if t not in spell)
    first, depth = base.layers(loud.info.depth)[0], loud.info.depth
    counted = [(first * n + (depth - first) * len(step)) / depth for step in now[1:]]
    assert visible(trace) == pytest.approx(counted)


METHODS: dict[str, Pruner] = {
    "none": NoPruning(), "fastv": FastV(), "pulse": VisionPulse(high=0.3),
    "both": Pipeline(methods=(FastV(), VisionPulse(high=0.3))), "dstp": DSTP(base=DivPrune(), tau=0.99, L=4),
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_recording_changes_nothing(loud: Prompted, name: str) -> None:
    recorded, plain = (run(loud, METHODS[name], record, forced=()).record() for record in ("attention", None))
    own = {"attention", "prefill_seconds", "decode_seconds", "peak_memory"}
    assert recorded["attention"] and not plain["attention"]
    assert {k: v for k, v in recorded.items() if k not in own} == {k: v for k, v in plain.items() if k not in own}


@pytest.mark.parametrize("name", ["none", "both", "dstp"])
def test_slots_do_not_mix(model: Model, name: str) -> None:
    """Samples of other lengths and pictures, some with none, join and leave while others are followed."""
    decoding = Decoding(max_new_tokens=24)

    def recorded(slots: int) -> list[Trace]:
        return list(Engine(model, slots=slots).run(prompts(9), METHODS[name], decoding, record="attention"))

    alone, shared = recorded(1), recorded(4)
    assert not [trace.error for trace in [*alone, *shared] if trace.error]
    by_id = {trace.id: trace for trace in shared}
    for single in alone:
        one, other = single.attention, by_id[single.id].attention
        assert by_id[single.id].token_ids == single.token_ids and len(one["steps"]) == single.new_tokens
        assert {k: one[k] for k in ("shown", "boxes", "needed", "visual_tokens")} == {
            k: other[k] for k in ("shown", "boxes", "needed", "visual_tokens")
        }
        assert torch.allclose(torch.tensor(one["ever"]), torch.tensor(other["ever"]), atol=1)  # on the very threshold
        continuous = [torch.tensor(record["steps"])[..., :4] for record in (one, other)]
        torch.testing.assert_close(*continuous, atol=2e-4, rtol=0)
        weights = [torch.tensor([weight[: single.visual_tokens] for _, weight in r["top"]]) for r in (one, other)]
        torch.testing.assert_close(*weights, atol=2e-4, rtol=0)


def test_text_alone_looks_at_nothing(model: Model) -> None:
    text = Request("t", ("what is this?",))
    (trace,) = Engine(model).run([text], NoPruning(), Decoding(max_new_tokens=5), record="attention")
    assert trace.error is None
    record = trace.attention
    assert record["visual_tokens"] == 0 and record["boxes"] == [] and record["shown"] == [(0, [])]
    assert torch.tensor(record["steps"]).shape == (trace.new_tokens, model.info.depth, 8)
    assert not torch.tensor(record["steps"]).any() and not torch.tensor(record["ever"]).any()
