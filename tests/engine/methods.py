"""Every method, as the matrix tests run it. A new method joins all of them by one line here."""

from __future__ import annotations

from pruners import (
    DSTP,
    Blind,
    DivPrune,
    FastV,
    NoPruning,
    Oracle,
    Pipeline,
    Pool,
    Pruner,
    Random,
    Stride,
    VisionPulse,
    VisionZip,
)

METHODS: dict[str, Pruner] = {
    "none": NoPruning(),
    "blind": Blind(),
    "oracle": Oracle(),
    "random": Random(),
    "random_tokens": Random(keep=None, tokens=5, seed=3),
    "stride": Stride(keep=1 / 9),
    "pool": Pool(),
    "divprune": DivPrune(),
    "visionzip": VisionZip(),
    "fastv": FastV(),
    "fastv_late": FastV(keep=1 / 9, layer=3),
    "random_then_fastv": Pipeline(methods=(Random(keep=0.5), FastV(keep=0.5))),
    "visionpulse_5": VisionPulse(tau=0.1, low=0.01, high=0.05),
    "visionpulse_10": VisionPulse(tau=0.4, low=0.05, high=0.10),
    "visionpulse_blocks": VisionPulse(low=0.1, high=0.4, block=8),
    "visionpulse_random": VisionPulse(budget="random", low=0.1, high=0.5),
    "fastv_then_visionpulse": Pipeline(methods=(FastV(), VisionPulse(high=0.3))),
    "fastv+dstp": DSTP(base=FastV(), tau=0.99, L=5),
    "random+dstp": DSTP(base=Random(keep=0.5), tau=0.99, L=5, joint=True),
    "random+dstp_shadow": DSTP(base=Random(), tau=0.99, L=5, recall="shadow"),
    "fastv+dstp_dense": DSTP(base=FastV(), tau=0.99, L=5, recall="dense", reversion=False),
    "random+dstp_merge": DSTP(base=Random(), trigger="random", rate=0.2, L=5, swap="merge"),
}
