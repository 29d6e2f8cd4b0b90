"""Where samples run: in this process, in one worker process per GPU, or on the actors of a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from harness.engine.trace import Decoding, Recorded, Request, Trace
from harness.runs.backend import Backend, Engine
from harness.runs.config import EngineConfig, ExecutorConfig, ModelConfig
from harness.runs.errors import InputError
from pruners.base import Pruner

Answer = Trace | Exception | None
"""A trace; what ended a job early; or None: all traces of the job have come."""


@dataclass(eq=False)
class Job:
    """What a cell asks of an executor.

    Attributes:
        over: set by who reads the traces once no more of them are wanted.
    """

    model: ModelConfig
    engine: EngineConfig
    pruner: Pruner
    decoding: Decoding
    record: Recorded | None
    requests: Iterable[Request]
    over: bool = False


class Executor(Protocol):
    """Runs jobs."""

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Answer]]:
        """Traces as they finish, in any order. A job is taken as soon as there is room for it, so that several may be
        under way; the last answer to each is None or an exception."""

    def close(self) -> None:
        """Let go of models and processes."""


class InProcess:
    """One device, in this process; the model stays loaded as long as jobs ask for the same one."""

    def __init__(self, backend: Backend, device: str) -> None:
        self._backend, self._device = backend, device
        self._loaded: tuple[ModelConfig, EngineConfig] | None = None
        self._engine: Engine | None = None

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Answer]]:
        for job in jobs:
            try:
                for trace in self.traces(job):
                    yield job, trace
                    if job.over:
                        break
            except Exception as error:
                yield job, error
            else:
                yield job, None

    def traces(self, job: Job) -> Iterator[Trace]:
        """Those of one job."""
        if self._loaded != (job.model, job.engine) or self._engine is None:
            self._engine = None  # frees the old model before the new one is loaded
            self._engine = self._backend.engine(job.model, job.engine, self._device)
            self._loaded = job.model, job.engine
        yield from self._engine.run(job.requests, job.pruner, job.decoding, record=job.record)

    def close(self) -> None:
        self._engine = None


def find_devices(gpus: str) -> list[str]:
    """Devices of `executor.gpus`: "all", "none", or numbers such as "0,1". Without a GPU, "all" is the CPU."""
    if gpus == "none":
        return ["cpu"]
    import torch

    count = torch.cuda.device_count()
    if gpus == "all":
        return [f"cuda:{i}" for i in range(count)] or ["cpu"]
    numbers = gpus.split(",")
    if not all(n.strip().isdecimal() and int(n) < count for n in numbers):
        raise InputError(f"executor.gpus must be all, none or numbers of GPUs, got {gpus}; this machine has {count}")
    return list(dict.fromkeys(f"cuda:{int(n)}" for n in numbers))


def traces(executor: Executor, job: Job) -> Iterator[Trace]:
    """Those of one job; raises what ended it."""
    for _, answer in executor.run([job]):
        if isinstance(answer, Exception):
            raise answer
        if answer is not None:
            yield answer


def local_executor(backend: Backend, devices: list[str]) -> Executor:
    """In this process for one device, else one worker process each."""
    from harness.runs.pool import Pool
    from harness.runs.processes import Processes

    return InProcess(backend, devices[0]) if len(devices) == 1 else Pool(Processes(backend, devices))


def make_executor(backend: Backend, config: ExecutorConfig) -> tuple[Executor, list[str]]:
    """What a configuration asks for, and the devices that it has."""
    if config.kind == "ray":
        from harness.runs.actors import Actors
        from harness.runs.pool import Pool

        actors = Actors(backend, config)
        return Pool(actors), actors.devices
    devices = find_devices(config.gpus)
    return local_executor(backend, devices), devices
