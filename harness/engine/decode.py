"""Decoding all slots: what the host keeps of every slot, around steps that run on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from harness.engine.cache import SlotCache
from harness.engine.capture import Runner
from harness.engine.parts import Part
from harness.engine.prefill import Prefilled
from harness.engine.recall import Recaller
from harness.engine.step import Step
from harness.models.base import Model
from pruners.base import Pruner
from pruners.views import State, StepView


class Extra(NamedTuple):
    """FLOPs of watching and of bringing back, and the cache entries brought back over all layers."""

    monitor: int
    recall: int
    entries: int


class Done(NamedTuple):
    """What is known of a step afterwards, per slot.

    Attributes:
        tokens: that the step chose, if it is greedy.
        finite: whether its logits are.
        read: visual entries read, summed over layers; only with a step method, like the next two.
        triggered: whether it re-selected.
        looked: entries that its monitor read.
    """

    tokens: list[int]
    finite: Sequence[bool]
    read: Sequence[float] = ()
    triggered: Sequence[bool] = ()
    looked: Sequence[int] = ()


class Decode:
    """Runs decode steps.

    Attributes:
        step: the device's side.
        looked: [S] entries that the step method's monitor read in the last step.
    """

    def __init__(
        self, model: Model, cache: SlotCache, pruner: Pruner, part: Part, compiled: bool = False, captured: bool = False
    ) -> None:  # fmt: skip
        self.model, self.cache, self.part = model, cache, part
        self.step = Step(model, cache, pruner, part)
        self.stepper = self.step.stepper
        recalls = self.stepper.recalls() if self.stepper else None
        self.recall = Recaller(model, cache, recalls, part) if recalls else None
        self.run = Runner(self.step, compiled, captured)
        self.fetching: list[int] = []
        """Slots whose next pass shows tokens that have to be brought back first."""
        self.visual = np.zeros(cache.rows, dtype=np.int64)
        """Visual entries that prefill left in the monitored layer."""
        self.looked = np.zeros(cache.rows, dtype=np.int64)

    @torch.inference_mode()
    def admit(self, slot: int, done: Prefilled, first: State) -> None:
        """Reset a slot's step state for a new sample, whose entries are in the cache already."""
        step = self.step
        step.generated[slot], step.live[slot] = 0, True
        self.visual[slot] = done.visual[step.monitored]
        if self.stepper is None or step.kept.is_meta:
            return
        self._widen(max(0, done.segment.width - step.visible.shape[1]))
        for flag in (step.kept, step.dropped, step.merged, step.merging):
            flag[slot] = 0
        segment = done.segment
        step.kept[slot, segment.column if segment.alive is None else segment.column[segment.alive]] = True
        step.decided[slot] = step.kept[slot] if self.recall else True
        if self.recall and segment.held:
            step.dropped[slot] = max(held.layer for held in segment.held)
            for held in segment.held:
                step.dropped[slot, held.column] = held.layer
        if self.recall:
            self.recall.admit(slot, segment.held or [], len(done.prompt.ids))
        for name, value in step.state.items():
            value[slot] = 0
            if name in first:
                value[slot][tuple(slice(n) for n in first[name].shape)] = first[name]

    def _widen(self, more: int) -> None:
        """Room for more columns."""
        step = self.step
        assert self.stepper is not None
        step.visible, step.decided = pad(step.visible, (0, more)), pad(step.decided, (0, more))
        step.kept, step.dropped = pad(step.kept, (0, more)), pad(step.dropped, (0, more))
        if step.seen is not None:
            step.seen = pad(step.seen, (0, more))
        for name, shape in self.stepper.state_spec(self.model.info).items():
            width = tuple(step.visible.shape[1] if n == "N" else n for n in shape)
            old = step.state.get(name, torch.zeros(self.cache.rows, *width, device=self.model.device))
            pads = [p for have, want in zip(old.shape[:0:-1], width[::-1], strict=True) for p in (0, want - have)]
            step.state[name] = pad(old, pads) if pads else old

    def extra(self, slot: int, looked: int) -> Extra:
        """What the step method has cost the sample in a slot so far, given how many entries its monitor read."""
        d, reserve = self.model.dims, self.recall.reserves[slot] if self.recall else None
        monitor = 2 * d.heads * d.head_dim * looked
        return Extra(monitor, reserve.spent if reserve else 0, reserve.entries if reserve else 0)

    @torch.inference_mode()
    def release(self, slot: int) -> None:
        """Forget the sample of a slot; what was decided for it is void."""
        step = self.step
        step.kept[slot], step.live[slot], self.visual[slot] = False, False, 0
        for value in step.state.values():
            value[slot] = 0
        self.fetching = [other for other in self.fetching if other != slot]
        if self.recall:
            self.recall.reserves[slot] = None

    def watch_columns(self) -> None:
        """Begin to note which columns every step reads."""
        if self.stepper is not None and self.step.seen is None:
            step = self.step
            step.seen = torch.zeros(self.cache.rows, step.visible.shape[1] + 1, device=self.model.device)

    @torch.inference_mode()
    def advance(self, live: list[int]) -> Tensor:
        """Logits [S, V] after the tokens of the slots in use."""
        step = self.step
        with self.part("decode"):
            if self.recall is not None and self.fetching:
                self.recall.fetch(step.decided, self.fetching)
                if step.merges:
                    self.recall.merge(self.fetching, step.kept)
                self.fetching = []
            if self.stepper is not None:
                self.looked = self.cache.lengths[step.monitored] + 1
            text = int((self.cache.lengths[step.monitored] - self.visual).max()) + 1 if self.stepper else 0
            logits = self.run(self.cache.longest(), self.cache.rounded(text))
            self.cache.lengths[:, live] += 1
            if self.recall is not None and step.view is not None:
                self._choose(self.recall, step.view)
        return logits

    def _choose(self, recall: Recaller, view: StepView) -> None:
        """Let a method that recalls choose for the slots that triggered: the one look at values in a step."""
        step, stepper = self.step, self.stepper
        slots = torch.nonzero(step.triggers).flatten().tolist()
        if not slots or stepper is None or step.query is None:
            return
        query = step.query

        def reserve() -> Tensor:
            return recall.logits(step.monitored, query, view.logits, slots)

        mask = stepper.at_trigger(replace(view, reserve=reserve), step.triggers)
        step.decided.copy_(torch.where(step.triggers[:, None], mask, step.decided))
        self.fetching = slots

    @property
    def blind(self) -> bool:
        """Whether steps can follow each other without a look at what they did."""
        return self.recall is None and self.step.seen is None and self.step.watch is None

    @torch.inference_mode()
    def done(self) -> tuple[Tensor, np.ndarray]:
        """What `told` needs of the step that was just made, still on the device."""
        step = self.step
        rows = [step.tokens, step.finite]
        rows += [] if self.stepper is None else [step.read.sum(0), step.triggers]
        return torch.stack([row.double() for row in rows]), self.looked

    def told(self, steps: list[tuple[Tensor, np.ndarray]]) -> list[Done]:
        """What these steps did: the host waits for them here."""
        if self.step.tokens.is_meta:
            rows = self.cache.rows
            return [Done([0] * rows, [True] * rows, looked=looked.tolist()) for _, looked in steps]
        found = torch.stack([rows for rows, _ in steps]).tolist()
        plain = [([int(token) for token in tokens], [bool(flag) for flag in finite]) for tokens, finite, *_ in found]
        if self.stepper is None:
            return [Done(*own) for own in plain]
        return [
            Done(*own, read, [bool(t) for t in triggers], looked.tolist())
            for own, (*_, read, triggers), (_, looked) in zip(plain, found, steps, strict=True)
        ]
