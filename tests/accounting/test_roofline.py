"""Floors and ceilings against figures that were worked out apart from this code (Qwen3-VL-4B, bf16, H200)."""

from __future__ import annotations

import pytest

from harness.accounting.flops import TowerLayer, prefill_flops, vision_flops
from harness.accounting.kv import entry_bytes
from harness.accounting.roofline import GIB, peak, slots_in, step_bytes, step_weights
from harness.accounting.sizes import DIMS

D, REST = DIMS["qwen3_vl_4b"], 600
"""Entries that are no visual tokens: text, and what was generated."""


def entries(visual: int, keep: float, first: int) -> float:
    """Entries read over all layers, of which those from `first` on keep a share of the visual ones."""
    return first * visual + (D.depth - first) * keep * visual + D.depth * REST


def test_bytes_of_a_step() -> None:
    assert round(step_weights(D) / 1e9, 2) == 8.04
    assert D.depth * entry_bytes(D) == 147_456


@pytest.mark.parametrize(
    ("visual", "slots", "milliseconds", "fastv", "dstp", "visionpulse"),
    [
        (1280, 1, 1.73, 1.01, 1.01, 1.01), (1280, 64, 5.37, 1.42, 1.17, 1.27), (4096, 1, 1.82, 1.05, 1.02, 1.03),
        (4096, 16, 3.98, 1.47, 1.19, 1.29), (4096, 64, 10.9, 1.87, 1.30, 1.50),
    ],
)  # fmt: skip
def test_floors_and_ceilings(
    visual: int, slots: int, milliseconds: float, fastv: float, dstp: float, visionpulse: float
) -> None:
    """FastV keeps 1/3 from layer 2 on; DSTP's union is 2/3; VisionPulse reads its anchor, layer 17, as a whole."""
    device = peak("NVIDIA H200")
    assert device is not None

    def read(keep: float, first: int) -> float:
        return step_bytes(step_weights(D), entry_bytes(D), slots, entries(visual, keep, first))

    full = read(1, 0)
    assert f"{1e3 * full / device.bandwidth:.3g}" == f"{milliseconds:.3g}"
    for printed, keep, first in ((fastv, 1 / 3, 2), (dstp, 2 / 3, 2), (visionpulse, 0.1, 18)):
        assert round(full / read(keep, first), 2) == printed


def test_ceilings_of_prefill() -> None:
    """The tower is 35 % of 1,280 tokens' prefill (100 of text): at most 2.2 x at 1/9, 2.56 x without any."""
    patches = 1280 * D.unit
    tower = vision_flops(D, [TowerLayer.whole(patches)] * D.tower_depth)

    def cost(visual: int) -> int:
        return tower + prefill_flops(D, [visual + 100] * D.depth)

    assert round(tower / cost(1280), 2) == 0.35
    assert round(cost(1280) / cost(142), 1) == 2.2
    assert round(cost(1280) / cost(0), 2) == 2.56


def test_unknown_devices_have_no_peak() -> None:
    assert peak("Some GPU") is None


def test_slots_in_memory() -> None:
    """17,664 tokens take 2.4 GiB a slot: 23 fit into 80 GiB beside the weights."""
    reserved = 17_664 * 147_456
    assert round(reserved / GIB, 1) == 2.4
    assert slots_in(80 * GIB, int(8.9e9), reserved) == 23
    assert slots_in(8 * GIB, int(8.9e9), reserved) == 0
