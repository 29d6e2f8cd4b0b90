"""A run whose steps and prefills are timed, and the memory that one takes."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.engine.run import Run
from harness.engine.trace import Decoding, Request, Trace
from harness.models.base import Model, Prompt
from pruners.base import Pruner

if TYPE_CHECKING:
    from harness.engine.engine import Engine


@dataclass
class Steps:
    """Some decode steps between two looks of the host.

    Attributes:
        began: when, on the clock that `seconds` come from.
        recalls: tokens were brought back before them, or chosen after them.
    """

    began: float
    seconds: float
    count: int
    recalls: bool


@dataclass
class Pack:
    """Samples that shared the slots; `prefill` are the seconds up to their first tokens, `seconds` up to their last."""

    traces: list[Trace]
    steps: list[Steps]
    prefill: float
    seconds: float


class TimedRun(Run):
    """Runs copies of one prompt and keeps the clock.

    Attributes:
        steps: of the pack of samples that is being run.
        most: decode steps after which samples are let go; None: they end by themselves.
    """

    def __init__(
        self, engine: Engine, pruner: Pruner, decoding: Decoding, prompt: Prompt, most: int | None = None
    ) -> None:
        super().__init__(engine, pruner, decoding, None, None)
        self.prompt, self.most = prompt, most
        self.steps: list[Steps] = []

    def _prepare(self, request: Request) -> Prompt:
        return self.prompt

    def packs(self, size: int, count: int, question: str) -> list[Pack]:
        """So many packs of samples, one after the other.

        Raises:
            RuntimeError: a sample failed.
        """
        requests = (Request(f"{i}", (question,)) for i in range(size * count))
        found, traces = list[Pack](), self.traces(requests)
        for _ in range(count):
            self.steps, began = [], time.perf_counter()
            pack = [next(traces) for _ in range(size)]
            ended = time.perf_counter()
            if failed := next((trace.error for trace in pack if trace.error), None):
                raise RuntimeError(failed)
            first = self.steps[0].began if self.steps else ended
            found.append(Pack(pack, self.steps, first - began, ended - began))
        return found

    def _step(self) -> None:
        watched, began = self.decode.recall is not None, time.perf_counter()
        recalls = bool(self.decode.fetching)
        count = self._together()
        super()._step()  # ends with a look at the tokens, so that the clock tells the truth
        recalls |= watched and bool(self.decode.fetching)
        self.steps.append(Steps(began, time.perf_counter() - began, count, recalls))
        if self.most is not None and sum(steps.count for steps in self.steps) >= self.most:
            for slot in self._live().values():
                slot.finish = "length"


@dataclass
class Parts:
    """Seconds by part of the work, each without those inside it; the device is waited for at every change."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)
    open: list[str] = field(default_factory=lambda: ["outside"])
    since: float = 0.0

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._book()
        self.open.append(name)
        yield
        self._book()
        self.open.pop()

    def _book(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[self.open[-1]] = self.seconds.get(self.open[-1], 0.0) + now - self.since
        self.since = now


class Held(TorchDispatchMode):
    """Counts the bytes of tensors while they live; `peak` is the most at a time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and id(storage := tensor.untyped_storage()) not in self.known:
                self._count(id(storage), storage, storage.nbytes())
        return out

    def _count(self, name: int, storage: Any, size: int) -> None:
        def gone(_: Any) -> None:
            self.now -= size
            self.known.pop(name, None)

        self.known[name] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


class Memory:
    """The most memory that tensors held at a time within a block, weights included.

    On a GPU its allocator tells. On a CPU every tensor that an operation makes is followed until it is gone (what an
    operation holds for itself is not seen), and the weights are added; nothing else must be timed meanwhile.
    """

    def __init__(self, model: Model) -> None:
        self.device, self.peak, self.held = model.device, 0, Held()
        self.weights = [weight.untyped_storage() for weight in model.net.parameters()]

    def __enter__(self) -> Memory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self.held.known |= {id(storage): weakref.ref(storage) for storage in self.weights}
            self.held.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        if self.device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self.device)
        else:
            self.held.__exit__(*error)  # type: ignore[no-untyped-call]
            self.peak = self.held.peak + sum({id(s): s.nbytes() for s in self.weights}.values())
