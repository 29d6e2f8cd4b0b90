"""Prompts, vision features and prefill, made in the background while earlier samples are decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from harness.engine.features import tensors
from harness.engine.prefill import Entry, Prefill, Prefilled
from harness.engine.trace import Request
from harness.engine.vision import Vision
from harness.models.base import ModelUnavailable, Prompt

TOKENS = 16384
"""Prompt tokens that are prefilled together; a longer prompt goes alone."""

Made = TypeVar("Made")
Item = TypeVar("Item")
Prepared = tuple[Request, Prompt]
Failure = tuple[Request, Exception]


@dataclass
class Pack:
    """Prefilled samples, and those that failed on the way."""

    done: list[Prefilled] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)


class Ahead:
    """Takes requests one pack ahead of who iterates over the packs.

    On a CPU all of it runs in a thread of its own beside decoding, and the two share the threads that torch may use; on
    a GPU pictures and tower do, on a stream of their own, and prefill waits its turn. With one CPU thread, or where
    somebody counts what runs, nothing runs in the background.

    Args:
        samples: how many to a pack, asked once, with the first prompt.

    Raises (when iterated over):
        ModelUnavailable: a part of the model is loaded on demand and cannot be.
    """

    def __init__(
        self, requests: Iterator[Request], prepare: Callable[[Request], Prompt], vision: Vision, prefill: Prefill,
        samples: Callable[[Prompt], int], background: bool,
    ) -> None:  # fmt: skip
        self.requests, self.prepare, self.vision, self.prefill = requests, prepare, vision, prefill
        self.ask, self.samples = samples, 0
        self.device = vision.model.device
        self.cpu, self.threads = self.device.type == "cpu", torch.get_num_threads()
        self.background = background and not (self.cpu and self.threads == 1)
        self.stream = torch.cuda.Stream(self.device) if self.background and self.device.type == "cuda" else None

    def __iter__(self) -> Iterator[Pack]:
        if not self.background:
            while (made := self._look()) is not None:
                yield self._filled(*made)
            return
        work = self._all if self.cpu else self._look
        with ThreadPoolExecutor(1, "vtpbench-ahead") as pool:
            try:
                self._share_threads(pool)
                coming: Future[Any] = pool.submit(work)
                while (made := coming.result()) is not None:
                    coming = pool.submit(work)
                    yield made if self.cpu else self._filled(*self._handed_over(*made))
            finally:
                torch.set_num_threads(self.threads)

    def _share_threads(self, pool: ThreadPoolExecutor) -> None:
        """On a CPU, both sides get half of torch's threads: more of them than cores would wait for each other."""
        if self.cpu:
            pool.submit(torch.set_num_threads, self.threads // 2).result()
            torch.set_num_threads(self.threads - self.threads // 2)

    def _all(self) -> Pack | None:
        made = self._look()
        return None if made is None else self._filled(*made)

    def _look(self) -> tuple[list[Entry], list[Failure]] | None:
        """The next samples with their vision features; None: there are no more requests."""
        prompts, failed, tokens = list[Prepared](), list[Failure](), 0
        while not self.samples or (len(prompts) + len(failed) < self.samples and tokens < TOKENS):
            request = next(self.requests, None)
            if request is None:
                break
            made, unread = each_alone(lambda some: [(r, self.prepare(r)) for r in some], [request])
            prompts, failed = prompts + made, failed + unread
            tokens += sum(len(prompt.ids) for _, prompt in made)
            self.samples = self.samples or (self.ask(made[0][1]) if made else 0)
        with nullcontext() if self.stream is None else torch.cuda.stream(self.stream):
            entries, lost = each_alone(self._seen, prompts)
        if self.stream is not None:
            self.stream.synchronize()  # in this thread nobody waits for it
        failed += [(request, error) for (request, _), error in lost]
        return (entries, failed) if entries or failed else None

    def _seen(self, prompts: list[Prepared]) -> list[Entry]:
        features = self.vision.features(prompts)
        return [(*prompt, own) for prompt, own in zip(prompts, features, strict=True)]

    def _filled(self, entries: list[Entry], failed: list[Failure]) -> Pack:
        done, lost = each_alone(self.prefill.run, entries)
        return Pack(done, failed + [(entry[0], error) for entry, error in lost])

    def _handed_over(self, entries: list[Entry], failed: list[Failure]) -> tuple[list[Entry], list[Failure]]:
        """Tells the allocator that another stream goes on to use what was made on this one's."""
        here = torch.cuda.current_stream(self.device)
        for _, _, pictures in entries:
            for features in pictures:
                for tensor in tensors(features):
                    tensor.record_stream(here)
        return entries, failed


def each_alone(
    work: Callable[[list[Item]], list[Made]], items: list[Item]
) -> tuple[list[Made], list[tuple[Item, Exception]]]:
    """What some work makes of items together; if it fails, of each by itself, so that only the culprit is lost."""
    if not items:
        return [], []
    try:
        return work(items), []
    except ModelUnavailable:  # no sample could do better
        raise
    except Exception as error:
        if len(items) == 1:
            return [], [(items[0], error)]
    made, lost = zip(*(each_alone(work, [item]) for item in items), strict=True)
    return [x for some in made for x in some], [x for some in lost for x in some]
