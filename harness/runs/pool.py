"""One queue of chunks of jobs, for workers that may die."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from harness.engine.trace import Request, Trace
from harness.runs.executors import Answer, Job
from harness.runs.log import Key

CHUNK = 64
"""Requests that a worker gets at a time: a few fillings of its slots."""

Work = tuple[Job, list[Request]]


class Dead(Exception):
    """A worker is gone; says how it ended."""


class Worker(Protocol):
    """A process that holds one model."""

    def ready(self) -> bool:
        """Whether it has started. Raises RuntimeError if it cannot."""

    def send(self, job: Job) -> None:
        """Give it a chunk."""

    def receive(self) -> Answer:
        """Its next answer to the chunk. Raises Dead."""

    def end(self) -> None:
        """Make sure that it is gone."""


W = TypeVar("W", bound=Worker)


class Crew(Protocol[W]):
    """Starts workers, one per place, and waits for them."""

    @property
    def places(self) -> Sequence[str]:
        """Names."""

    def start(self, place: str) -> W:
        """A fresh worker."""

    def wait(self, workers: list[W]) -> list[W]:
        """Those that have started or have something to say, at least one."""

    def close(self) -> None:
        """Let go of what workers share."""


@dataclass
class _Task:
    job: Job
    left: dict[Key, Request]


class Pool(Generic[W]):
    """Workers fed from one queue of (job, chunk), the next job behind the last chunk of the one before.

    A worker that dies is replaced and its unanswered requests run again one at a time; a request whose worker dies
    twice fails.
    """

    def __init__(self, crew: Crew[W]) -> None:
        self._crew = crew
        self._workers: dict[str, W] = {}

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Answer]]:
        finished = False
        try:
            yield from _Queue(jobs).serve(self._crew, self._workers)
            finished = True
        finally:
            if not finished:  # a worker still busy with these jobs must not answer into the next ones
                self.close()

    def close(self) -> None:
        for worker in self._workers.values():
            worker.end()
        self._workers.clear()
        self._crew.close()


class _Queue:
    def __init__(self, jobs: Iterable[Job]) -> None:
        self.open = Counter[Job]()  # requests given to workers and not answered, by job
        self.given: set[Job] = set()  # jobs of which every request has been given
        self.fresh = self._chunks(jobs)
        self.again: deque[Work] = deque()
        self.retried: set[tuple[Job, Key]] = set()

    def _chunks(self, jobs: Iterable[Job]) -> Iterator[Work]:
        for job in jobs:
            self.open[job] = 0
            rest = iter(job.requests)
            while not job.over and (chunk := list(itertools.islice(rest, CHUNK))):
                self.open[job] += len(chunk)
                yield job, chunk
            self.given.add(job)

    def _next(self) -> Work | None:
        return self.again.popleft() if self.again else next(self.fresh, None)

    def _ended(self) -> Iterator[tuple[Job, Answer]]:
        for job in [job for job in self.given if not self.open[job]]:
            self.given.remove(job)
            del self.open[job]
            yield job, None

    def serve(self, crew: Crew[W], workers: dict[str, W]) -> Iterator[tuple[Job, Answer]]:
        """Answers as they come."""
        tasks: dict[str, _Task] = {}
        while True:
            starting = []
            for place in crew.places:
                if place in tasks or (work := self._next()) is None:
                    continue
                if place not in workers:
                    workers[place] = crew.start(place)
                if not workers[place].ready():  # others may be faster
                    self.again.appendleft(work)
                    starting.append(workers[place])
                    continue
                job, chunk = work
                tasks[place] = _Task(job, {(r.id, r.repeat): r for r in chunk})
                workers[place].send(replace(job, requests=chunk))
            yield from self._ended()
            if not tasks and not starting:
                return
            ready = crew.wait([*(workers[place] for place in tasks), *starting])
            for place in [place for place in tasks if workers[place] in ready]:
                yield from self._hear(place, tasks, workers)

    def _hear(self, place: str, tasks: dict[str, _Task], workers: dict[str, W]) -> Iterator[tuple[Job, Answer]]:
        task = tasks[place]
        try:
            answer = workers[place].receive()
        except Dead as dead:
            workers.pop(place).end()
            yield from self._lost(tasks.pop(place), str(dead))
            return
        if isinstance(answer, Trace):
            del task.left[answer.id, answer.repeat]
            self.open[task.job] -= 1
            yield task.job, answer
            return
        del tasks[place]
        self.open[task.job] -= len(task.left)
        error = answer
        if error is None and task.left:
            error = RuntimeError(f"the engine gave no trace for {len(task.left)} samples")
        if error is not None and not task.job.over:
            task.job.over = True
            yield task.job, error

    def _lost(self, task: _Task, how: str) -> Iterator[tuple[Job, Answer]]:
        """The requests of a dead worker run again, or fail."""
        for key, request in task.left.items():
            if (task.job, key) not in self.retried and not task.job.over:
                self.retried.add((task.job, key))
                self.again.append((task.job, [request]))
                continue
            self.open[task.job] -= 1
            yield task.job, Trace(id=key[0], repeat=key[1], finish="error", error=f"its worker died twice ({how})")
