"""Prompts, vision features and prefill, made in the background while earlier samples are decoded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeVar

import torch

from harness.engine.deterministic import NotDeterministic, check
from harness.engine.features import tensors
from harness.engine.memory import out_of_memory
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
Looked = tuple[list[Entry], list[Failure]]


@dataclass
class Pack:
    """Prefilled samples, and those that failed on the way."""

    done: list[Prefilled] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)


class Ahead:
    """Takes requests two packs ahead of who iterates over the packs.

    Pictures and tower run in a thread of their own, on a GPU on a stream of their own. On a CPU so does prefill, unless
    its samples are waited for before it has begun, and the two threads share those that torch may use; with one torch
    thread, or where somebody counts what runs, nothing runs in the background.

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
        self.parts = 2 if self.cpu else 1
        """Pieces into which the prefill of a pack is cut, so that both threads can take one."""
        self.background = background and not (self.cpu and self.threads == 1)
        self.stream = torch.cuda.Stream(self.device) if self.background and self.device.type == "cuda" else None

    def __iter__(self) -> Generator[Pack, None, None]:
        if not self.background:
            while (made := self._look()) is not None:
                yield self._filled(self.prefill, made)
            return
        own = copy(self.prefill)  # two threads can prefill at a time
        # On a CPU both sides get half of torch's threads: more of them than cores would wait for each other.
        share = self.threads // 2 if self.cpu else self.threads
        with ThreadPoolExecutor(1, "vtpbench-ahead", torch.set_num_threads, (share,)) as pool:
            looks, parts = deque([pool.submit(self._look), pool.submit(self._look)]), list[Future[Pack]]()
            try:
                torch.set_num_threads(share)
                while True:
                    # What has not begun when somebody waits for it, he does himself.
                    mine = [i for i in range(self.parts) if not parts or parts[i].cancel()]
                    made = looks.popleft().result()
                    if made is None:
                        return
                    looks.append(pool.submit(self._look))
                    theirs = [part for part in parts if not part.cancelled()]
                    parts = [pool.submit(self._part, own, looks[0], i) for i in range(self.parts) if self.cpu]
                    packs = [self._filled(self.prefill, self._split(made, i)) for i in mine]
                    packs += [part.result() for part in theirs]
                    yield Pack([d for pack in packs for d in pack.done], [f for pack in packs for f in pack.failed])
            finally:
                for look in looks:
                    look.cancel()
                for part in parts:
                    part.cancel()
                torch.set_num_threads(self.threads)

    def _look(self) -> Looked | None:
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

    def _part(self, prefill: Prefill, looked: Future[Looked | None], i: int) -> Pack:
        return self._filled(prefill, self._split(looked.result() or ([], []), i))

    def _split(self, looked: Looked, i: int) -> Looked:
        entries, failed = looked
        return entries[i :: self.parts], failed[i :: self.parts]

    def _filled(self, prefill: Prefill, looked: Looked) -> Pack:
        entries, failed = looked
        self._hand_over(entries)
        done, lost = each_alone(prefill.run, entries)
        return Pack(done, failed + [(entry[0], error) for entry, error in lost])

    def _hand_over(self, entries: list[Entry]) -> None:
        """Tell the allocator that another stream goes on to use what was made on this one's."""
        if self.stream is None:
            return
        here = torch.cuda.current_stream(self.device)
        for tensor in chain(*(tensors(features) for _, _, pictures in entries for features in pictures)):
            tensor.record_stream(here)


def each_alone(
    work: Callable[[list[Item]], list[Made]], items: list[Item]
) -> tuple[list[Made], list[tuple[Item, Exception]]]:
    """What some work makes of items together; if it fails, of each by itself, so that only the culprit is lost.

    Raises:
        ModelUnavailable: no sample could do better.
        Exception: memory has run out, for which nobody knows a culprit.
    """
    if not items:
        return [], []
    try:
        return work(items), []
    except (ModelUnavailable, NotDeterministic):  # no sample could do better
        raise
    except Exception as error:
        check(error)
        if out_of_memory(error):
            raise
        if len(items) == 1:
            return [], [(items[0], error)]
    made, lost = zip(*(each_alone(work, [item]) for item in items), strict=True)
    return [x for some in made for x in some], [x for some in lost for x in some]
