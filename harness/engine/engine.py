"""The engine: requests in, traces out, with slots that are refilled as soon as enough of them are free."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.accounting.kv import slot_bytes
from harness.engine.cache import SlotCache
from harness.engine.decode import Decode
from harness.engine.evidence import Evidence
from harness.engine.finish import Reply, finished, make_trace
from harness.engine.parts import Part, ignore
from harness.engine.prefill import Prefill, Prefilled
from harness.engine.sampling import choose
from harness.engine.trace import Decoding, Recorded, Request, Trace
from harness.engine.vision import FeatureCache, Vision
from harness.engine.watch import Watch
from harness.models.base import Features, Model, ModelUnavailable, Prompt
from pruners.base import Pruner

CPU_SLOTS = 16
Listen = Callable[[Request, Tensor], None]


@dataclass
class Slot:
    """A sample being decoded."""

    prefilled: Prefilled
    draw: random.Random
    reply: Reply
    evidence: Evidence | None
    ids: list[int] = field(default_factory=list)


class Engine:
    """Runs a model under a method.

    Args:
        slots: samples decoded together; None takes 16 on a CPU, and on a GPU what fits by reserved bytes.
        feature_cache_mb: memory for vision features that several methods share.
        part: told which part of the work runs, for profilers.
    """

    def __init__(
        self, model: Model, *, slots: int | None = None, feature_cache_mb: int = 512, part: Part = ignore
    ) -> None:
        if slots is not None and slots < 1:
            raise ValueError(f"slots must be at least 1, got {slots}")
        self.model, self.slots, self.part = model, slots, part
        self.features = FeatureCache(feature_cache_mb << 20)

    def run(
        self, requests: Iterable[Request], pruner: Pruner, decoding: Decoding, *, record: Recorded | None = None,
        listen: Listen | None = None,
    ) -> Iterator[Trace]:  # fmt: skip
        """Traces in the order in which samples finish. A failing sample is a trace with `finish="error"`.

        Args:
            record: what else the traces shall hold.
            listen: gets the logits [V] of every token of every reply in order, before it is chosen.

        Raises:
            PrunerError: the method cannot act on this model.
            ModelUnavailable: it needs a part of the model that is loaded on demand and cannot be.
        """
        pruner.check(self.model.info)
        yield from _Run(self, pruner.resolved(self.model.info), decoding, record, listen).traces(iter(requests))

    def slots_for(self, prompt: Prompt, decoding: Decoding) -> int:
        """Slots by reserved bytes: what a GPU has free, less a fifth for activations."""
        if self.slots is not None:
            return self.slots
        if self.model.device.type != "cuda":
            return CPU_SLOTS
        free, _ = torch.cuda.mem_get_info(self.model.device)
        need = slot_bytes(self.model.dims, 2 * len(prompt.ids), decoding.max_new_tokens)
        return max(1, min(256, int(0.8 * free) // need))


class _Run:
    """One pass of a method over a stream of requests."""

    def __init__(
        self, engine: Engine, pruner: Pruner, decoding: Decoding, record: Recorded | None, listen: Listen | None
    ) -> None:
        self.engine, self.model, self.pruner, self.decoding = engine, engine.model, pruner, decoding
        self.record, self.listen = record, listen
        self.unseen = any({"encoder", "cache"} & set(stage.moments()) for stage in pruner.stages())
        self.vision = Vision(engine.model, pruner, engine.features, engine.part)
        self.prefill = Prefill(engine.model, pruner, engine.part, record == "attention")
        self.slots: list[Slot | None] = []
        self.failed: list[Trace] = []
        self.seen: Tensor | None = None  # [S, V] tokens of prompt or reply, and of the reply alone; for penalties
        self.written: Tensor | None = None

    def traces(self, requests: Iterator[Request]) -> Iterator[Trace]:
        waiting = self._ready(requests)
        first = next(waiting, None)
        yield from self._take_failed()
        if first is None:
            return
        self.slots = [None] * self.engine.slots_for(first[1], self.decoding)
        self.cache = SlotCache(self.model.dims, self.model.axes, len(self.slots), self.model.device, self.model.dtype)
        self.decode = Decode(self.model, self.cache, self.pruner, self.engine.part)
        if self.record == "attention":
            self.decode.watch = Watch(self.model.info.depth, self.cache.rows, self.model.device)
        self.tokens = torch.zeros(self.cache.rows, dtype=torch.long, device=self.model.device)
        if self.decoding.repetition_penalty != 1 or self.decoding.presence_penalty:
            shape = (self.cache.rows, self.model.dims.vocab)
            self.seen, self.written = (torch.zeros(shape, dtype=torch.bool, device=self.model.device) for _ in range(2))
        head: list[tuple[Request, Prompt, list[Features]]] = [first]
        more = True
        while more or any(self.slots):
            free = [i for i, slot in enumerate(self.slots) if slot is None]
            # A prefill of several prompts costs a third per prompt of single ones, so a few free slots are awaited.
            if more and len(free) >= max(1, len(self.slots) // 4):
                batch, head = head, []
                while len(batch) < len(free) and (entry := next(waiting, None)) is not None:
                    batch.append(entry)
                more = len(batch) == len(free)
                self._admit(batch, free)
                yield from self._take_failed()
                yield from self._sweep()
                continue
            live = [i for i, slot in enumerate(self.slots) if slot is not None]
            if live:
                self._step(live)
                yield from self._sweep()
        yield from self._take_failed()

    def _take_failed(self) -> Iterator[Trace]:
        failed, self.failed = self.failed, []
        yield from failed

    def _fail(self, request: Request, error: Exception) -> None:
        self.failed.append(
            Trace(id=request.id, repeat=request.repeat, finish="error", error=f"{type(error).__name__}: {error}")
        )

    def _ready(self, requests: Iterator[Request]) -> Iterator[tuple[Request, Prompt, list[Features]]]:
        """Prompts with vision features; a sample that fails here is set aside."""
        for request in requests:
            try:
                prompt = self._prepare(request)
                yield request, prompt, self.vision.features(request, prompt)
            except ModelUnavailable:  # no sample could do better
                raise
            except Exception as error:
                self._fail(request, error)

    def _prepare(self, request: Request) -> Prompt:
        for stage in self.pruner.stages():
            if "picture" in stage.moments():
                return self.model.prepare_shrunk(request, stage.at_picture)
        return self.model.prepare(request)

    def _admit(self, batch: list[tuple[Request, Prompt, list[Features]]], free: list[int]) -> None:
        """Prefill a batch into free slots; if it fails, one by one, so that only the culprit is lost."""
        began = time.perf_counter()
        try:
            done = self.prefill.run(batch) if batch else []
        except Exception as error:
            if len(batch) == 1:
                self._fail(batch[0][0], error)
                return
            for entry, slot in zip(batch, free, strict=False):
                self._admit([entry], [slot])
            return
        self._wait()
        seconds = time.perf_counter() - began
        tokens = sum(len(p.prompt.ids) for p in done)
        admitted: dict[int, Prefilled] = {}
        for slot, prefilled in zip(free, done, strict=False):
            try:
                self._occupy(slot, prefilled, seconds * len(prefilled.prompt.ids) / tokens)
                admitted[slot] = prefilled
            except Exception as error:
                self._vacate(slot)
                self._fail(prefilled.request, error)
        if admitted:
            logits = torch.zeros(self.cache.rows, done[0].logits.shape[-1], device=self.model.device)
            logits[list(admitted)] = torch.stack([p.logits for p in admitted.values()])
            self._choose(logits, list(admitted))

    def _occupy(self, slot: int, prefilled: Prefilled, seconds: float) -> None:
        """Give a prefilled sample a slot; what a step method does with it at once counts as prefill."""
        began, request, decoding = time.perf_counter(), prefilled.request, self.decoding
        first, evidence = self.prefill.begin(prefilled), Evidence.of(prefilled)
        held = sum(len(part.index) for part in prefilled.segment.held or [])
        back = held + 1 if held else 0  # and the one that may stand for all kept ones
        self.cache.admit(slot, prefilled.cache, max(decoding.max_new_tokens, len(request.forced)) + back)
        self.decode.admit(slot, prefilled, first)
        if self.decode.watch is not None and not prefilled.logits.is_meta:
            self.decode.watch.admit(slot, prefilled)
        prefilled.forget()
        self._wait()
        reply = Reply(prefill_seconds=seconds + time.perf_counter() - began)
        draw = random.Random(f"{decoding.seed}/{request.id}/{request.repeat}")
        self.slots[slot] = Slot(prefilled, draw, reply, evidence)
        self.decode.needs_seen |= evidence is not None
        if self.seen is not None and self.written is not None:
            self.seen[slot] = self.written[slot] = False
            self.seen[slot, prefilled.prompt.ids.to(self.model.device)] = True

    def _vacate(self, slot: int) -> None:
        self.slots[slot] = None
        self.cache.release(slot)
        self.decode.release(slot)

    def _wait(self) -> None:
        """Until the device has done its work, so that clocks tell the truth."""
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)

    def _choose(self, logits: Tensor, live: list[int]) -> None:
        """Choose the next token of the live slots and write it down."""
        draws = [slot.draw if slot is not None and i in live else random.Random(0) for i, slot in enumerate(self.slots)]
        draws += [random.Random(0)] * (self.cache.rows - len(draws))
        if logits.is_meta:  # nothing has a value there: shapes and costs alone
            chosen = torch.zeros(len(logits), dtype=torch.long)
        else:
            chosen = choose(logits, self.decoding, self.seen, self.written, draws)
        for i in live:
            slot = self.slots[i]
            assert slot is not None
            request = slot.prefilled.request
            if self.listen is not None:
                self.listen(request, logits[i])
            if request.forced:
                chosen[i] = request.forced[len(slot.ids)]
        row = torch.tensor(live, device=self.model.device)
        self.tokens[row] = chosen.to(self.tokens.device)[row]
        if self.seen is not None and self.written is not None:
            self.seen[row, self.tokens[row]] = self.written[row, self.tokens[row]] = True
        for i, token in zip(live, chosen.tolist() if len(live) == len(chosen) else chosen[live].tolist(), strict=True):
            slot = self.slots[i]
            assert slot is not None
            slot.ids.append(token)

    def _step(self, live: list[int]) -> None:
        """One decode step; its time is shared evenly among the live slots."""
        began = time.perf_counter()
        logits = self.decode.step(self.tokens, live)
        if self.decode.watch is not None and self.decode.watch.measures:
            self.decode.watch.end(live)
        read = torch.stack(self.decode.read).sum(0).tolist() if self.decode.read else None
        triggers = self.decode.triggers.tolist() if read else None
        self._choose(logits, live)
        seconds = (time.perf_counter() - began) / len(live)
        for i in live:
            slot = self.slots[i]
            assert slot is not None
            slot.reply.count_step(seconds, None if read is None else read[i], bool(triggers and triggers[i]))
            if slot.evidence and self.decode.seen is not None:  # after the clock has been read
                slot.evidence.note(len(self.model.tokenizer.decode(slot.ids[:-1])), self.decode.seen[i])

    def _sweep(self) -> Iterator[Trace]:
        """Traces of the slots that have finished; the slots become free."""
        for i, slot in enumerate(self.slots):
            if slot is None:
                continue
            finish = finished(slot.ids, self.model, self.decoding, slot.prefilled.request.forced)
            if finish is None:
                continue
            trace = make_trace(
                self.model, slot.prefilled, slot.reply, slot.ids, finish, self.decoding,
                extra=self.decode.extra(i), allocated=self.cache.allocated // self.cache.rows,
                record=self.record, unseen=self.unseen,
            )  # fmt: skip
            if self.decode.watch is not None:
                trace.attention = self.decode.watch.release(i)
            trace.evidence_runs = slot.evidence.runs if slot.evidence else []
            yield trace
            self._vacate(i)
