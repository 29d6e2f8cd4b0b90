"""The engine: requests in, traces out, with slots that are refilled as soon as they are free."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from harness.accounting.kv import slot_bytes
from harness.engine.deterministic import require, steadily
from harness.engine.features import FeatureCache
from harness.engine.memory import Unanswered, out_of_memory
from harness.engine.parts import Part, ignore
from harness.engine.prompts import PromptCache
from harness.engine.run import Listen, Run
from harness.engine.spill import Spill
from harness.engine.trace import Decoding, Recorded, Request, Trace
from harness.models.base import Model, Prompt
from harness.notices import say_once, told
from pruners.base import Pruner

CPU_SLOTS = 16


class Engine:
    """Runs a model under a method.

    Args:
        slots: samples decoded together; None takes 16 on a CPU, and on a GPU what fits by reserved bytes.
        feature_cache_mb: memory for vision features that several methods share, and a quarter of it for prompts.
        feature_cache_folder: for features in files, of this model with this processor and these options alone.
        feature_cache_disk_mb: room that they may take there.
        part: told which part of the work runs, for profilers.
        ahead: work on the next samples in the background; never with a profiler, nor without values (meta).
        compiled: let torch compile decode steps; None: on a GPU, where they are also captured in graphs.
        at_once: greedy decode steps between looks at what they did; None: 8 on a GPU, 1 on a CPU.
        fixed_batch: give a sample the same bits whoever else is run. Towers and prefill then take samples one by one,
            in this thread; a step has as many rows as ever, and each attends by itself. Methods that act in steps, on
            whose buffers others leave their sizes, get one slot. Nothing is compiled.
        deterministic: allow torch no kernel that may round otherwise when it runs again.

    Raises:
        ValueError: options that contradict each other.
        NotDeterministic: the environment does not let cuBLAS be deterministic.
    """

    def __init__(
        self, model: Model, *, slots: int | None = None, feature_cache_mb: int = 512, part: Part = ignore,
        ahead: bool = True, compiled: bool | None = None, at_once: int | None = None,
        feature_cache_folder: Path | None = None, feature_cache_disk_mb: int = 32768, fixed_batch: bool = False,
        deterministic: bool = False,
    ) -> None:  # fmt: skip
        if slots is not None and slots < 1:
            raise ValueError(f"slots must be at least 1, got {slots}")
        self.model, self.slots, self.part = model, slots, part
        self.fixed_batch, self.deterministic = fixed_batch, deterministic
        gpu = model.device.type == "cuda"
        if fixed_batch and compiled:
            raise ValueError("fixed_batch and compiled contradict each other: attention then is a loop over slots")
        if fixed_batch and gpu and slots is None:
            raise ValueError("fixed_batch needs slots: how many fit in what a GPU has free changes from run to run")
        if deterministic:
            require(model.device)
        fast = gpu and not fixed_batch
        self.compiled, self.captured = fast if compiled is None else compiled, fast
        self.at_once = at_once or (8 if gpu else 1)
        self.ahead = ahead and not fixed_batch and part is ignore and model.device.type != "meta"
        files = Spill(feature_cache_folder, feature_cache_disk_mb << 20) if feature_cache_folder else None
        self.features = FeatureCache(feature_cache_mb << 20, files)
        self.prompts = PromptCache((feature_cache_mb << 20) // 4)

    def run(
        self, requests: Iterable[Request], pruner: Pruner, decoding: Decoding, *, record: Recorded | None = None,
        listen: Listen | None = None,
    ) -> Iterator[Trace]:  # fmt: skip
        """Traces in the order in which samples finish. A failing sample is a trace with `finish="error"`.

        Where memory runs out, samples without a trace run again with half as many slots, and so does whatever is run
        later; a sample that does not fit alone fails.

        Args:
            record: what else the traces shall hold.
            listen: gets the logits [V] of every token of every reply in order, before it is chosen. With it nothing
                runs a second time, and memory that runs out is an error.

        Raises:
            PrunerError: the method cannot act on this model.
            ModelUnavailable: it needs a part of the model that is loaded on demand and cannot be.
            NotDeterministic: it, or the model, needs what torch cannot do deterministically here.
        """
        pruner.check(self.model.info)
        pruner, rest = pruner.resolved(self.model.info), Unanswered(iter(requests))
        while True:
            run = Run(self, pruner, decoding, record, listen)
            try:
                traces = run.traces(rest)
                for trace in steadily(traces) if self.deterministic else traces:
                    rest.answered(trace)
                    yield trace
                return
            except Exception as error:
                if listen is not None or not rest.open or not out_of_memory(error):
                    raise
                why, slots = f"{type(error).__name__}: {told(error)}", run.samples or 1
            del run  # the error is gone here already, and with both what the pass held
            self._free()
            if self.slots != 1 or self.ahead:
                self._take_fewer(slots, why)
            else:
                request, why = rest.open.pop(), f"it does not fit into memory, even alone ({why})"
                yield Trace(id=request.id, repeat=request.repeat, finish="error", error=why)
            rest.again()

    def _take_fewer(self, slots: int, why: str) -> None:
        """Half as many slots; with the last one nothing more is worked on ahead, so that a sample is really alone."""
        self.slots = max(1, slots // 2)
        self.ahead = self.ahead and self.slots > 1
        say_once(f"out of memory with engine.slots={slots}, from here on it is {self.slots} ({why})")

    def _free(self) -> None:
        """Give back the memory of a pass that has ended."""
        gc.collect()
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()

    def slots_for(self, prompt: Prompt, decoding: Decoding) -> int:
        """Slots by reserved bytes: what a GPU has free, less a fifth for activations."""
        if self.slots is not None:
            return self.slots
        if self.model.device.type != "cuda":
            return CPU_SLOTS
        free, _ = torch.cuda.mem_get_info(self.model.device)
        need = slot_bytes(self.model.dims, 2 * len(prompt.ids), decoding.max_new_tokens)
        return max(1, min(256, int(0.8 * free) // need))
