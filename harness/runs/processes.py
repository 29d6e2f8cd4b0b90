"""Worker processes on this machine."""

from __future__ import annotations

import multiprocessing
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from harness.runs.backend import Backend
from harness.runs.executors import Answer, InProcess, Job
from harness.runs.pool import Dead


@dataclass(eq=False)
class Process:
    """A process behind a pipe."""

    process: SpawnProcess
    pipe: Connection

    def ready(self) -> bool:
        return True  # the pipe keeps what is sent meanwhile

    def send(self, job: Job) -> None:
        self.pipe.send(job)

    def receive(self) -> Answer:
        try:
            answer: Answer = self.pipe.recv()
        except EOFError:
            self.process.join()
            raise Dead(f"exit code {self.process.exitcode}") from None
        return answer

    def end(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.join()


@dataclass
class Processes:
    """One process per device."""

    backend: Backend
    places: list[str]

    def start(self, place: str) -> Process:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(self.backend, place, theirs), daemon=True)
        process.start()
        theirs.close()  # so that the death of the process closes the pipe
        return Process(process, ours)

    def wait(self, workers: list[Process]) -> list[Process]:
        ready = wait([worker.pipe for worker in workers])
        return [worker for worker in workers if worker.pipe in ready]

    def close(self) -> None:
        """Processes share nothing."""


def _serve(backend: Backend, device: str, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; whoever started us ends us
    executor = InProcess(backend, device)
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        for _, answer in executor.run([job]):
            pipe.send(portable(answer))


def portable(answer: Answer) -> Answer:
    """An answer that another process can read: of an error of a class of its own, which may not be there, the text."""
    if not isinstance(answer, Exception):
        return answer
    return RuntimeError(str(answer) if type(answer) is RuntimeError else f"{type(answer).__name__}: {answer}")
