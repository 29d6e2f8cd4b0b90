"""One method on one model at one length: times, memory, FLOPs, bytes."""

from __future__ import annotations

import gc
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from statistics import mean, median
from typing import Any

import torch

from harness.accounting.flops import head_flops, token_flops
from harness.accounting.kv import entry_bytes
from harness.accounting.roofline import GIB, slots_in, step_bytes, step_weights
from harness.engine.bench.clock import Memory, Pack, Parts, TimedRun
from harness.engine.bench.prompt import Unmeasurable, make_prompt
from harness.engine.engine import Engine
from harness.engine.trace import Decoding
from harness.models.base import Model, Prompt
from harness.notices import told
from pruners.base import Pruner
from pruners.none import NoPruning

MEMORIES = (80, 139)
"""GiB of the devices for which the largest number of slots is told."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is run: prompts of so many tokens, replies of exactly so many, so many samples at a time."""

    visual_tokens: int
    text_tokens: int = 256
    new_tokens: int = 128
    slots: int = 1

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if type(value) is not int or value < 1:
                raise Unmeasurable(f"{name} must be a whole number of at least 1, got {value!r}")


@dataclass
class Measured:
    """One method. Seconds are None where there is no device that has values; so is what follows from them.

    Attributes:
        flops, overhead, kv_bytes: of one sample, as in its trace. triggers: a sample's re-selections.
        entries: cache entries that a step reads of one sample, over all layers; looked: those whose keys a step
            method's monitor reads besides.
        weights: bytes of all weights; step_weights: of those that a step reads; entry_bytes: of an entry in one layer.
        text_flops: tower apart, what the prompt would cost without visual tokens.
        ttft: of one sample alone, from its pixels to its first token, tower included.
        prefill: the same per sample, `slots` together.
        selection: seconds of the method's own work before the first token of one sample alone, measured apart.
        step: median decode step, without those that bring tokens back; step_mean: of all of them.
        trigger: what a re-selection adds to its steps. tokens_per_second: new tokens over all, prefill included.
        peak_memory: bytes that tensors took at most at a time.
        slots_in: by GiB of memory, the largest number of slots by reserved bytes, and measured tokens per second.
    """

    method: str
    setting: Setting
    flops: dict[str, int]
    overhead: dict[str, int]
    kv_bytes: dict[str, int]
    ret_prefill: float
    ret_decode: float
    triggers: float
    steps: int
    entries: float
    looked: float
    weights: int
    step_weights: int
    entry_bytes: int
    text_flops: int
    ttft: float | None = None
    prefill: float | None = None
    selection: float | None = None
    step: float | None = None
    step_mean: float | None = None
    trigger: float | None = None
    tokens_per_second: float | None = None
    peak_memory: int | None = None
    slots_in: dict[int, tuple[int, float | None]] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @property
    def step_bytes(self) -> float:
        """Bytes that a step cannot help reading: weights, keys and values that it sees, keys that are looked at."""
        return step_bytes(self.step_weights, self.entry_bytes, self.setting.slots, self.entries + self.looked / 2)

    @property
    def input_flops(self) -> int:
        """Tower and prefill, without what the method adds."""
        return self.flops["vision"] + self.flops["prefill"]

    @property
    def blind_flops(self) -> int:
        """What is left of it where the language model sees no visual token at all."""
        return self.flops["vision"] + self.text_flops


def measure(
    model: Model, pruner: Pruner, setting: Setting, name: str = "", *, compiled: bool | None = None, rounds: int = 3,
    largest: bool = False,
) -> Measured:  # fmt: skip
    """Run a method and keep the books.

    Args:
        compiled: as for the engine. rounds: how often a first token alone is timed.
        largest: also run with the largest number of slots, on a device that has the memory.

    Raises:
        PrunerError: the method cannot act on the model.
        Unmeasurable: the family has no such prompt, or a sample fails.
    """
    pruner.check(model.info)
    pruner = pruner.resolved(model.info)
    bench = _Bench(model, pruner, setting, compiled)
    try:
        return bench.measured(name or type(pruner).__name__, rounds, largest)
    except RuntimeError as error:
        raise Unmeasurable(f"{name or type(pruner).__name__}: {told(error)}") from error


class _Bench:
    def __init__(self, model: Model, pruner: Pruner, setting: Setting, compiled: bool | None) -> None:
        self.model, self.pruner, self.setting, self.compiled = model, pruner, setting, compiled
        shrink = next((stage.at_picture for stage in pruner.stages() if "picture" in stage.moments()), None)
        self.prompt: Prompt = make_prompt(model, setting.visual_tokens, setting.text_tokens, shrink)
        self.question = " ".join(["word"] * (setting.text_tokens - len(self.prompt.pictures)))

    def packs(self, slots: int, new: int, count: int, *, most: int | None = None, **options: Any) -> list[Pack]:
        """Packs of `slots` samples with `new` tokens each; the first may have to compile."""
        self._forget()
        options = {"compiled": self.compiled, **options}
        engine = Engine(self.model, slots=slots, feature_cache_mb=0, ahead=False, **options)
        decoding = Decoding(max_new_tokens=new, ignore_eos=True)
        return TimedRun(engine, self.pruner, decoding, self.prompt, most).packs(slots, count, self.question)

    def _forget(self) -> None:
        """Let go of what earlier runs leave: compiled steps, of which none may be one too many, and memory."""
        torch._dynamo.reset()
        if self.model.device.type == "cuda":
            gc.collect()  # runs refer to themselves
            torch.cuda.empty_cache()

    def measured(self, name: str, rounds: int, largest: bool) -> Measured:
        self._forget()
        slots, new, memory = self.setting.slots, self.setting.new_tokens, Memory(self.model)
        kind = self.model.device.type
        with memory if kind == "cuda" else nullcontext():
            pack = self.packs(slots, new, 1 if kind == "meta" else 2)[-1]
        found = self._counted(name, pack)
        if kind != "meta":
            self._time(found, pack, rounds)
        if kind == "cpu":  # apart, because following tensors takes time
            with memory:
                self.packs(slots, new, 1, most=2, compiled=False)
        found.peak_memory = memory.peak or None
        for size in MEMORIES:
            found.slots_in[size] = self._largest(found, size, largest)
        return found

    def _counted(self, name: str, pack: Pack) -> Measured:
        d, trace, steps = self.model.dims, pack.traces[0], self.setting.new_tokens - 1
        text = self.setting.text_tokens
        read, watched = trace.kv_bytes["visible"] / entry_bytes(d), trace.overhead["monitor"] / max(1, steps)
        return Measured(
            name, self.setting, trace.flops, trace.overhead, trace.kv_bytes,
            ret_prefill=trace.ret_prefill or 0.0, ret_decode=trace.ret_decode or 0.0,
            triggers=mean(len(trace.triggers) for trace in pack.traces), steps=steps, entries=read,
            looked=watched / (2 * d.heads * d.head_dim),
            weights=sum(weight.nbytes for weight in self.model.net.parameters()), step_weights=step_weights(d),
            entry_bytes=entry_bytes(d),
            text_flops=d.depth * (text * token_flops(d) + 4 * d.heads * d.head_dim * text**2) + head_flops(d),
        )  # fmt: skip

    def _time(self, found: Measured, pack: Pack, rounds: int) -> None:
        slots = self.setting.slots
        found.ttft = median(alone.seconds for alone in self.packs(1, 1, 1 + rounds)[1:])
        if not isinstance(self.pruner, NoPruning):
            parts = Parts(self.model.device)
            self.packs(1, 1, 1, part=parts, compiled=False)
            found.selection = parts.seconds.get("overhead", 0.0)
        found.prefill = pack.prefill / slots
        found.tokens_per_second = slots * self.setting.new_tokens / pack.seconds
        if not pack.steps:
            return
        plain = [steps.seconds / steps.count for steps in pack.steps if not steps.recalls]
        found.step = median(plain or [steps.seconds / steps.count for steps in pack.steps])
        found.step_mean = sum(s.seconds for s in pack.steps) / sum(s.count for s in pack.steps)
        if plain and (again := sum(len(trace.triggers) for trace in pack.traces)):
            over = [steps.seconds - found.step for steps in pack.steps if steps.recalls]
            found.trigger = sum(over) / again

    def _largest(self, found: Measured, size: int, run: bool) -> tuple[int, float | None]:
        """The largest number of slots in so many GiB, and what it makes of them where it is run."""
        slots = slots_in(size * GIB, found.weights, found.kv_bytes["allocated"])
        device = self.model.device
        fits = device.type == "cuda" and torch.cuda.mem_get_info(device)[1] >= size * GIB
        if not (run and fits and slots):
            return slots, None
        pack = self.packs(slots, self.setting.new_tokens, 2)[-1]
        return slots, slots * self.setting.new_tokens / pack.seconds
