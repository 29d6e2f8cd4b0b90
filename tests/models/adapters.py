"""What every adapter must hold, beside its own prompts and tower."""

from __future__ import annotations

from harness.engine import Decoding, Engine, Request
from harness.models.base import Model
from pruners import PrunerError
from tests.engine import test_moments as moments
from tests.engine.methods import METHODS

MOMENTS = (
    moments.test_tower_exit_equals_embed,
    moments.test_layer_zero_equals_embed,
    moments.test_evicting_equals_hiding,
    moments.test_signals,
)


def every_method_runs(model: Model) -> None:
    """All that accept the model; which is more than half of them."""
    ran = 0
    for name, method in METHODS.items():
        try:
            (trace,) = Engine(model).run([Request("r", ())], method, Decoding(max_new_tokens=3, ignore_eos=True))
        except PrunerError:
            continue
        ran += 1
        assert trace.error is None and trace.new_tokens == 3, name
    assert ran > len(METHODS) / 2
