"""What step methods are charged, against torch's counter on real values, and what they leave to read."""

from __future__ import annotations

from collections import Counter

import pytest

from harness.accounting.flops import decode_flops, token_flops
from harness.engine import Decoding, Engine, Request, Trace
from pruners import DSTP, DivPrune, FastV, Pruner, VisionPulse
from tests.accounting.test_flops import SLOTS, charged, counted
from tests.tiny import BY_FAMILY, CONFIGS, Prompted, config, text_sizes, vision_sizes

GRIDS = {"qwen3_vl": [(8, 12), (12, 6)], "internvl": [(2, 1), (1, 1)], "llava": [(1, 1), (1, 1)]}
STEPS = 12


@pytest.mark.parametrize(
    "pruner",
    [
        VisionPulse(high=0.3), DSTP(base=FastV(keep=0.3), tau=2, L=3, joint=True),
        DSTP(base=DivPrune(keep=0.3), tau=2, L=3, joint=True), DSTP(base=FastV(), tau=2, L=3, recall="shadow"),
        DSTP(base=DivPrune(), tau=2, L=3, recall="dense"), DSTP(base=FastV(), tau=2, L=3, swap="full"),
    ],
    ids=["visionpulse", "fastv", "divprune", "shadow", "dense", "full"],
)  # fmt: skip
@pytest.mark.parametrize("family", BY_FAMILY)
def test_monitor_and_recall_equal_torchs_counter(family: str, pruner: Pruner) -> None:
    """Eight equal samples trigger together, so that no row is padding. Fused attention on a CPU counts as nothing,
    so that of the decode part only the linear layers can be compared; the keys read are told by the trace."""
    model = Prompted(CONFIGS[BY_FAMILY[family]], "cpu", GRIDS[family], noise=0.2)
    traces, torchs = counted(model, pruner, STEPS + 1)
    ours, first = charged(traces), traces[0]
    n, depth = first.visual_tokens, model.info.depth
    assert ours["decode"] - attention(model, first) * SLOTS == torchs["decode"]
    assert sum(first.overhead.values()) == first.flops["overhead"] and first.overhead["monitor"] > 0
    if isinstance(pruner, DSTP):
        assert first.triggers == [1, 5, 9] and (first.overhead["recall"] > 0) == (pruner.recall != "dense")
        assert (first.kv == 1.0) == (pruner.recall != "recompute" or pruner.swap == "full")
        if pruner.recall == "shadow":  # one sample at a time, so that rows are filled up to a multiple of 8
            layers = depth - pruner.base.layers(depth)[0]
            ours["overhead"] += SLOTS * (-(n - first.visual_per_layer[-1]) % 8) * layers * token_flops(model.dims)
    assert ours["overhead"] == torchs["overhead"]


def attention(model: Prompted, trace: Trace) -> int:
    """FLOPs of the attention of all decode steps, from the visible tokens that the trace tells."""
    depth = model.info.depth
    visual = sum(round(value * depth) * run for value, run in trace.visible_per_step)
    text = depth * sum(trace.text_tokens + t for t in range(1, STEPS + 1))
    return decode_flops(model.dims, 0, visual + text)


def test_visionpulse_at_its_cap() -> None:
    """36 layers, the first 17 dense, 5 % of the visual tokens in the other 19: half of everything is read."""
    tiny = config(text_sizes(32, 36, 2, 2, 16, 32, 64), vision_sizes(2, 32, 2, 32, 4, 16, []), tied=True)
    model = Prompted(tiny, "cpu", [(20, 40)])
    pulse = VisionPulse(low=0.05, high=0.05)
    (trace,) = Engine(model).run([Request("s", ())], pulse, Decoding(max_new_tokens=8, ignore_eos=True))
    assert trace.visual_tokens == 200 and trace.visible_per_step == [((17 * 200 + 19 * 10) / 36, 7)]
    assert f"{trace.ret_decode:.2f}" == "0.50" and f"{trace.kv:.2f}" == f"{trace.ret_prefill:.2f}" == "1.00"


def test_triggers_are_the_steps_that_chose() -> None:
    """The trace of a sample counts its own triggers, whoever sits in the other slots."""
    model = Prompted(CONFIGS["untied"], "cpu", [(8, 12)], noise=0.2)
    requests = [Request(f"s{i}", ()) for i in range(3)]
    decoding = Decoding(max_new_tokens=20, ignore_eos=True)
    traces = Engine(model, slots=2).run(requests, DSTP(base=FastV(), tau=2, L=4), decoding)
    assert Counter(tuple(t.triggers) for t in traces) == {(1, 6, 11, 16): 3}
