"""One pass of a method over a stream of requests, with slots that are refilled as soon as they are free."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from harness.engine.ahead import Ahead, Pack
from harness.engine.cache import SlotCache, origin
from harness.engine.decode import Decode
from harness.engine.deterministic import check
from harness.engine.evidence import Evidence
from harness.engine.finish import Reply, finished, make_trace
from harness.engine.memory import out_of_memory
from harness.engine.prefill import Prefill, Prefilled
from harness.engine.sampling import choose
from harness.engine.trace import Decoding, Finish, Recorded, Request, Trace
from harness.engine.vision import PIXELS, Vision
from harness.engine.watch import Watch
from harness.models.base import Prompt
from pruners.base import Pruner

if TYPE_CHECKING:
    from harness.engine.engine import Engine

Listen = Callable[[Request, Tensor], None]


class NotFinite(ArithmeticError):
    """The logits of a sample are not finite; where that began."""


@dataclass
class Slot:
    """A sample being decoded."""

    prefilled: Prefilled
    draw: random.Random
    reply: Reply
    evidence: Evidence | None
    ids: list[int] = field(default_factory=list)
    finish: Finish | None = None


class Run:
    """Takes samples from prefill to their traces."""

    def __init__(
        self, engine: Engine, pruner: Pruner, decoding: Decoding, record: Recorded | None, listen: Listen | None
    ) -> None:
        self.engine, self.model, self.pruner, self.decoding = engine, engine.model, pruner, decoding
        self.record, self.listen = record, listen
        pixels = 0 if engine.fixed_batch else PIXELS
        self.vision = Vision(engine.model, pruner, engine.features, engine.part, pixels)
        self.shrinks = next((stage for stage in pruner.stages() if "picture" in stage.moments()), None)
        self.unseen = any({"encoder", "cache"} & set(stage.moments()) for stage in pruner.stages())
        self.prefill = Prefill(engine.model, pruner, engine.part, record == "attention")
        self.penalised = decoding.repetition_penalty != 1 or decoding.presence_penalty != 0
        self.greedy = decoding.temperature == 0 and not self.penalised and listen is None
        acts = any("step" in s.moments() or type(s).bias is not Pruner.bias for s in pruner.stages())
        self.alone = engine.fixed_batch and acts
        self.samples = 0  # at a time; known with the first prompt
        self.slots: list[Slot | None] = []
        self.failed: list[Trace] = []
        self.seen: Tensor | None = None  # [S, V] tokens of prompt or reply, and of the reply alone; for penalties
        self.written: Tensor | None = None

    def traces(self, requests: Iterator[Request]) -> Iterator[Trace]:
        """Traces as samples finish or fail."""
        ahead = Ahead(requests, self._prepare, self.vision, self.prefill, self._pack_for, self.engine.ahead)
        with closing(iter(ahead)) as packs:  # nothing goes on in the background once this has ended
            yield from self._traces(packs)

    def _traces(self, packs: Iterator[Pack]) -> Iterator[Trace]:
        ready: deque[Prefilled] = deque()
        more = True
        while more or ready or any(self.slots):
            free = [i for i, slot in enumerate(self.slots) if slot is None]
            if more and not ready and (free or not self.slots):
                pack = next(packs, None)
                more = pack is not None
                if pack is not None:
                    if not self.slots and self.samples:
                        self._open(self.samples)
                    ready.extend(pack.done)
                    self._fail(*pack.failed)
            elif free and ready:
                self._admit({slot: ready.popleft() for slot in free[: len(ready)]})
            else:
                self._step()
            yield from self._sweep()

    def _prepare(self, request: Request) -> Prompt:
        if self.vision.acts:  # pixels are needed every time
            return self._made(request)
        return self.engine.prompts.get(request, self.shrinks, self._made)

    def _made(self, request: Request) -> Prompt:
        if self.shrinks is not None:
            return self.model.prepare_shrunk(request, self.shrinks.at_picture)
        return self.model.prepare(request)

    def _pack_for(self, prompt: Prompt) -> int:
        """Samples that are prefilled together; settles the number of slots."""
        self.samples = 1 if self.alone else self.engine.slots_for(prompt, self.decoding)
        return 1 if self.engine.fixed_batch else self.samples

    def _open(self, slots: int) -> None:
        """Buffers for so many samples at a time."""
        engine, device = self.engine, self.model.device
        self.slots = [None] * slots
        self.cache = SlotCache(self.model.dims, self.model.axes, slots, device, self.model.dtype)
        self.decode = Decode(self.model, self.cache, self.pruner, engine.part, engine.compiled, engine.captured)
        self.decode.step.greedy, self.decode.step.each = self.greedy, engine.fixed_batch and not self.alone
        if self.record == "attention":
            self.decode.step.watch = Watch(self.model.info.depth, self.cache.rows, device)
        if self.penalised:
            shape = (self.cache.rows, self.model.dims.vocab)
            self.seen, self.written = (torch.zeros(shape, dtype=torch.bool, device=device) for _ in range(2))

    def _fail(self, *failures: tuple[Request, Exception]) -> None:
        for request, error in failures:
            told = f"{type(error).__name__}: {error}"
            self.failed.append(Trace(id=request.id, repeat=request.repeat, finish="error", error=told))

    def _admit(self, samples: dict[int, Prefilled]) -> None:
        """Give prefilled samples their slots, and choose their first tokens."""
        if self.alone:
            self._open(self.samples)  # buffers are as wide as the widest sample so far
        logits: dict[int, Tensor] = {}
        for slot, prefilled in samples.items():
            try:
                self._occupy(slot, prefilled)
                logits[slot] = prefilled.logits
            except Exception as error:
                check(error)
                if out_of_memory(error):
                    raise
                self._vacate(slot)
                self._fail((prefilled.request, error))
        if logits:
            self._choose(torch.stack([*logits.values()]), [*logits])

    def _occupy(self, slot: int, prefilled: Prefilled) -> None:
        """Give a prefilled sample a slot; what a step method does with it at once counts as prefill."""
        began, request, decoding = time.perf_counter(), prefilled.request, self.decoding
        if not prefilled.logits.is_meta and not prefilled.logits.isfinite().all():
            raise NotFinite(origin([(layer.keys, layer.values) for layer in prefilled.cache]))
        first, evidence = self.prefill.begin(prefilled), Evidence.of(prefilled)
        held = sum(len(part.index) for part in prefilled.segment.held or [])
        back = held + 1 if held else 0  # and the one that may stand for all kept ones
        new = max(decoding.max_new_tokens, len(request.forced)) + self.engine.at_once - 1
        self.cache.admit(slot, prefilled.cache, new + back)
        self.decode.admit(slot, prefilled, first)
        if self.decode.step.watch is not None and not prefilled.logits.is_meta:
            self.decode.step.watch.admit(slot, prefilled)
        if evidence is not None:
            self.decode.watch_columns()
        prefilled.forget()
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)  # so that the clock tells the truth
        reply = Reply(prefill_seconds=prefilled.seconds + time.perf_counter() - began)
        draw = random.Random(f"{decoding.seed}/{request.id}/{request.repeat}")
        self.slots[slot] = Slot(prefilled, draw, reply, evidence)
        if self.seen is not None and self.written is not None:
            self.seen[slot] = self.written[slot] = False
            self.seen[slot, prefilled.prompt.ids.to(self.model.device)] = True

    def _vacate(self, slot: int) -> None:
        self.slots[slot] = None
        self.cache.release(slot)
        self.decode.release(slot)

    def _live(self) -> dict[int, Slot]:
        return {i: slot for i, slot in enumerate(self.slots) if slot is not None}

    def _choose(self, logits: Tensor, live: list[int]) -> None:
        """Choose the next token of slots from their logits [live, V] and write it down."""
        row, slots = torch.tensor(live, device=self.model.device), [s for i in live if (s := self.slots[i]) is not None]
        if logits.is_meta:  # nothing has a value there: shapes and costs alone
            chosen = torch.zeros(len(logits), dtype=torch.long)
        else:
            seen, written = (None if x is None else x[row] for x in (self.seen, self.written))
            chosen = choose(logits, self.decoding, seen, written, [slot.draw for slot in slots])
        for i, slot in enumerate(slots):
            if self.listen is not None:
                self.listen(slot.prefilled.request, logits[i])
            if forced := slot.prefilled.request.forced:
                chosen[i] = forced[len(slot.ids)]
        tokens = self.decode.step.tokens
        tokens[row] = chosen.to(tokens.device)
        if self.seen is not None and self.written is not None:
            self.seen[row, tokens[row]] = self.written[row, tokens[row]] = True
        for slot, token in zip(slots, chosen.tolist(), strict=True):
            self._write(slot, token)

    def _write(self, slot: Slot, token: int) -> None:
        slot.ids.append(token)
        slot.finish = finished(slot.ids, self.model, self.decoding, slot.prefilled.request.forced)

    def _chosen(self) -> bool:
        """Whether the device chooses the next tokens."""
        return self.greedy and not any(slot.prefilled.request.forced for slot in self._live().values())

    def _together(self) -> int:
        """Steps that can follow each other before the host looks at what they did."""
        return self.engine.at_once if self._chosen() and self.decode.blind else 1

    def _step(self) -> None:
        """Some decode steps; their time is shared evenly among the slots in use."""
        began, live, decode, chosen = time.perf_counter(), self._live(), self.decode, self._chosen()
        steps = []
        for _ in range(self._together()):
            logits = decode.advance([*live])
            if decode.step.watch is not None and decode.step.watch.measures:
                decode.step.watch.end([*live])
            if not chosen:
                self._choose(logits[[*live]], [*live])
            steps.append(decode.done())
        counted = decode.told(steps)
        seconds = (time.perf_counter() - began) / len(live) / len(steps)
        for done in counted:
            for i, slot in live.items():
                if chosen and slot.finish is not None:  # it ended before the others of these steps
                    continue
                slot.reply.count_step(seconds, done, i)
                if not done.finite[i]:
                    slot.finish = "error"
                elif chosen:
                    self._write(slot, done.tokens[i])
        for i, slot in live.items():
            if not all(done.finite[i] for done in counted):
                self._wipe(i, slot)
            elif slot.evidence and decode.step.seen is not None:  # after the clock has been read
                slot.evidence.note(partial(self._characters, slot.ids[:-1]), decode.step.seen[i])

    def _wipe(self, i: int, slot: Slot) -> None:
        """Leave nothing in a slot that is not finite, and fail its sample unless its reply had ended before."""
        why = self.cache.wipe(i)
        if slot.finish == "error":
            self._fail((slot.prefilled.request, NotFinite(f"{why} (decode step {slot.reply.steps})")))
            self._vacate(i)

    def _characters(self, ids: list[int]) -> int:
        return len(self.model.tokenizer.decode(ids))

    def _sweep(self) -> Iterator[Trace]:
        """Traces of the samples that have finished or failed; their slots become free."""
        yield from self.failed
        self.failed = []
        for i, slot in self._live().items():
            if slot.finish is None:
                continue
            trace = make_trace(
                self.model, slot.prefilled, slot.reply, slot.ids, slot.finish, self.decoding,
                extra=self.decode.extra(i, slot.reply.looked), allocated=self.cache.allocated // self.cache.rows,
                record=self.record, unseen=self.unseen,
            )  # fmt: skip
            if self.decode.step.watch is not None:
                trace.attention = self.decode.step.watch.release(i)
            trace.evidence_runs = slot.evidence.runs if slot.evidence else []
            yield trace
            self._vacate(i)
