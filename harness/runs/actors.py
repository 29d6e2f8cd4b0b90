"""Workers on a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from harness.runs.backend import Backend
from harness.runs.config import ExecutorConfig
from harness.runs.errors import InputError
from harness.runs.executors import Answer, InProcess, Job
from harness.runs.pool import Dead
from harness.runs.processes import portable

STARTS = 3
"""Ray gives itself 30 seconds to start, which a busy machine may exceed."""


class Serving:
    """What an actor does."""

    def __init__(self, backend: Backend) -> None:
        import ray

        self._executor = InProcess(backend, "cuda:0" if ray.get_gpu_ids() else "cpu")

    def run(self, job: Job) -> Iterator[Answer]:
        """Answers to a chunk."""
        for _, answer in self._executor.run([job]):
            yield portable(answer)


@dataclass(eq=False)
class Actor:
    """An actor that starts, then answers to one chunk at a time."""

    actor: Any
    waits_for: Any = field(init=False)
    started: bool = False

    def __post_init__(self) -> None:
        self.waits_for = self.actor.__ray_ready__.remote()

    def ready(self) -> bool:
        import ray

        if not self.started and ray.wait([self.waits_for], timeout=0)[0]:
            try:
                ray.get(self.waits_for)
            except ray.exceptions.RayError as error:
                raise RuntimeError(f"a Ray actor cannot start: {first_line(error)}") from None
            self.started = True
        return self.started

    def send(self, job: Job) -> None:
        self.waits_for = self.actor.run.remote(job)

    def receive(self) -> Answer:
        import ray

        try:
            answer: Answer = ray.get(next(self.waits_for))
        except ray.exceptions.RayActorError as error:
            raise Dead(first_line(error)) from None
        except ray.exceptions.RayTaskError as error:  # the answer could not be sent
            return RuntimeError(first_line(error))
        return answer

    def end(self) -> None:
        import ray

        ray.kill(self.actor)


class Actors:
    """As many actors as asked for, on the GPUs of the cluster if it has any."""

    def __init__(self, backend: Backend, config: ExecutorConfig) -> None:
        try:
            import ray
        except ImportError:
            raise InputError('executor=ray needs Ray: pip install "vtpbench[ray]"') from None
        if config.gpus not in ("all", "none"):
            raise InputError(f"executor.gpus must be all or none with executor=ray, got {config.gpus}")
        if config.workers is not None and config.workers < 1:
            raise InputError(f"executor.workers must be at least 1, got {config.workers}")
        connect(config.address or os.environ.get("RAY_ADDRESS"))
        self._backend, found = backend, ray.cluster_resources()
        kind = "GPU" if config.gpus == "all" and found.get("GPU", 0) >= 1 else "CPU"
        there = int(found.get(kind, 0))
        wanted = config.workers or (there if kind == "GPU" else 1)
        if wanted > there:
            self.close()
            raise InputError(f"executor.workers={wanted}: the Ray cluster has {there} {kind}s")
        # Ray would give torch one thread.
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, int(found.get("CPU", 1)) // wanted))
        self._options = {
            "num_cpus": 1, "num_gpus": int(kind == "GPU"), "scheduling_strategy": "SPREAD",
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": threads}},
        }  # fmt: skip
        self.places = [f"ray:{i}" for i in range(wanted)]
        self.devices = [f"{wanted} Ray actors on {kind}s"]

    def start(self, place: str) -> Actor:
        import ray

        return Actor(ray.remote(**self._options)(Serving).remote(self._backend))

    def wait(self, workers: list[Actor]) -> list[Actor]:
        import ray

        ready, _ = ray.wait([worker.waits_for for worker in workers])
        return [worker for worker in workers if worker.waits_for in ready]

    def close(self) -> None:
        import ray

        ray.shutdown()


def connect(address: str | None) -> None:
    """Join a running cluster, or start one here. Raises InputError."""
    import ray

    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address:
        try:
            ray.init(address, **quiet)
        except Exception as error:  # Ray raises all sorts
            where = f"{address} (executor.address, or RAY_ADDRESS)"
            raise InputError(f"no Ray cluster at {where}: {first_line(error)}") from None
        return
    for left in reversed(range(STARTS)):
        try:
            ray.init("local", include_dashboard=False, **quiet)
            return
        except Exception as error:
            ray.shutdown()
            if not left:
                raise InputError(f"Ray does not start: {first_line(error)}") from None


def first_line(error: BaseException) -> str:
    """Ray's messages are long."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
