"""Where samples run: in this process, or in one worker process per GPU."""

from __future__ import annotations

import itertools
import multiprocessing
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Protocol

from harness.engine.trace import Decoding, Recorded, Request, Trace
from harness.runs.backend import Backend, Engine
from harness.runs.config import EngineConfig, ModelConfig
from harness.runs.errors import InputError
from pruners.base import Pruner

CHUNK = 64
"""Requests that a worker gets at a time: a few fillings of its slots."""


@dataclass(frozen=True)
class Job:
    """What a cell asks of an executor."""

    model: ModelConfig
    engine: EngineConfig
    pruner: Pruner
    decoding: Decoding
    record: Recorded | None
    requests: Iterable[Request]


class Executor(Protocol):
    """Runs jobs, one after the other."""

    def run(self, job: Job) -> Iterator[Trace]:
        """Traces as they finish, in any order."""

    def close(self) -> None:
        """Let go of models and processes."""


class InProcess:
    """One device, in this process; the model stays loaded as long as jobs ask for the same one."""

    def __init__(self, backend: Backend, device: str) -> None:
        self._backend, self._device = backend, device
        self._loaded: tuple[ModelConfig, EngineConfig] | None = None
        self._engine: Engine | None = None

    def run(self, job: Job) -> Iterator[Trace]:
        if self._loaded != (job.model, job.engine) or self._engine is None:
            self._engine = None  # frees the old model before the new one is loaded
            self._engine = self._backend.engine(job.model, job.engine, self._device)
            self._loaded = job.model, job.engine
        yield from self._engine.run(job.requests, job.pruner, job.decoding, record=job.record)

    def close(self) -> None:
        self._engine = None


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    pipe: Connection
    chunk: dict[tuple[str, int], Request]
    """Requests it has been given and not answered."""


class Workers:
    """One process per device, fed with chunks from one queue.

    A process that dies is replaced and its unanswered requests run again one at a time; a request whose process dies
    twice fails.
    """

    def __init__(self, backend: Backend, devices: list[str]) -> None:
        self._backend, self._devices = backend, devices
        self._workers: dict[str, _Worker] = {}

    def run(self, job: Job) -> Iterator[Trace]:
        finished = False
        try:
            yield from self._run(job)
            finished = True
        finally:
            if not finished:  # a worker still busy with this job must not answer into the next one
                self.close()

    def _run(self, job: Job) -> Iterator[Trace]:
        fresh = _chunks(job.requests)
        again: list[Request] = []
        retried: set[tuple[str, int]] = set()
        while True:
            for device in self._devices:
                if device in self._workers and self._workers[device].chunk:
                    continue
                if chunk := again[:1] or next(fresh, []):
                    del again[:1]
                    worker = self._workers.get(device) or self._start(device)
                    worker.chunk = {(r.id, r.repeat): r for r in chunk}
                    worker.pipe.send(replace(job, requests=chunk))
            busy = {w.pipe: (device, w) for device, w in self._workers.items() if w.chunk}
            if not busy:
                return
            for pipe in wait(list(busy)):
                device, worker = busy[pipe]  # type: ignore[index]
                try:
                    answer = worker.pipe.recv()
                except EOFError:
                    lost, code = list(worker.chunk.items()), self._end(device)
                    again += [request for key, request in lost if key not in retried]
                    for key, _ in lost:
                        if key in retried:
                            error = f"its worker process died twice (exit code {code})"
                            yield Trace(id=key[0], repeat=key[1], finish="error", error=error)
                    retried |= {key for key, _ in lost}
                    continue
                if isinstance(answer, str):
                    raise RuntimeError(answer)
                del worker.chunk[answer.id, answer.repeat]
                yield answer

    def _start(self, device: str) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(self._backend, device, theirs), daemon=True)
        process.start()
        theirs.close()  # so that the death of the process closes the pipe
        self._workers[device] = _Worker(process, ours, {})
        return self._workers[device]

    def _end(self, device: str) -> int | None:
        worker = self._workers.pop(device)
        worker.pipe.close()
        worker.process.kill()
        worker.process.join()
        return worker.process.exitcode

    def close(self) -> None:
        for device in list(self._workers):
            self._end(device)


def _serve(backend: Backend, device: str, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; whoever started us ends us
    executor = InProcess(backend, device)
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        try:
            for trace in executor.run(job):
                pipe.send(trace)
        except Exception as error:
            pipe.send(f"{type(error).__name__}: {error}")


def _chunks(requests: Iterable[Request]) -> Iterator[list[Request]]:
    rest = iter(requests)
    while chunk := list(itertools.islice(rest, CHUNK)):
        yield chunk


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


def make_executor(backend: Backend, devices: list[str]) -> Executor:
    """In this process for one device, else one worker process each."""
    return InProcess(backend, devices[0]) if len(devices) == 1 else Workers(backend, devices)
