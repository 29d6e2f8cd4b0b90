"""What a device could do at best: the bytes that a decode step cannot help reading, and what follows for pruning."""

from __future__ import annotations

from typing import NamedTuple

from harness.accounting.dims import Dims
from harness.accounting.flops import head_flops, projector_weights, token_flops


class Peak(NamedTuple):
    """A device by its data sheet: bytes per second, dense FLOPs per second in 16 bits, and bytes of memory."""

    bandwidth: float
    flops: float
    memory: int


GIB = 1 << 30
PEAKS = {
    "H200": Peak(4.8e12, 989e12, 139 * GIB),
    "H100 80GB HBM3": Peak(3.35e12, 989e12, 79 * GIB),
    "A100-SXM4-80GB": Peak(2.039e12, 312e12, 79 * GIB),
}
"""By a part of the name that torch gives; of the memory, what it reports as usable."""
GPUS = {"h200": "H200", "h100": "H100 80GB HBM3", "a100": "A100-SXM4-80GB"}
"""Short names of the same devices."""


def peak(device: str) -> Peak | None:
    """The data sheet of a device, by its name as torch gives it; None: unknown."""
    return next((found for name, found in PEAKS.items() if name in device), None)


def step_weights(d: Dims) -> int:
    """Bytes of the weights that a decode step reads: decoder layers and head. Norms and embeddings are left out."""
    return (d.depth * token_flops(d) + head_flops(d)) // 2 * d.value_bytes


def weight_bytes(d: Dims, *, tied: bool) -> int:
    """Bytes of all weights but norms, biases and position embeddings; `tied`: the head is the embedding of tokens."""
    w = d.tower_hidden
    tower = d.tower_depth * (4 * w * w + d.tower_mlp_products * w * d.tower_mlp) + d.patch_inputs * w
    projector = projector_weights(d)
    embedding = 0 if tied else d.hidden * d.vocab
    return step_weights(d) + (embedding + tower + (1 + len(d.deepstack)) * projector) * d.value_bytes


def step_bytes(weights: int, entry: int, slots: int, entries: float) -> float:
    """Bytes that a decode step reads: weights, and entries of so many bytes, over all layers, of every slot."""
    return weights + slots * entries * entry


def slots_in(memory: float, weights: int, reserved: int) -> int:
    """Slots of so many reserved bytes in a device's memory: a fifth of what weights leave is for activations."""
    return max(0, int(0.8 * (memory - weights))) // reserved
