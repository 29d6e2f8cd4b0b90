"""Every method, as the matrix tests run it. A new method joins all of them by one line here."""

from __future__ import annotations

from pruners import Blind, FastV, NoPruning, Oracle, Pipeline, Pool, Pruner, Random, Stride

METHODS: dict[str, Pruner] = {
    "none": NoPruning(),
    "blind": Blind(),
    "oracle": Oracle(),
    "random": Random(),
    "random_tokens": Random(keep=None, tokens=5, seed=3),
    "stride": Stride(keep=1 / 9),
    "pool": Pool(),
    "fastv": FastV(),
    "fastv_late": FastV(keep=1 / 9, layer=3),
    "random_then_fastv": Pipeline(methods=(Random(keep=0.5), FastV(keep=0.5))),
}
