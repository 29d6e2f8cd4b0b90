"""One decode step for all slots, with step methods and attention biases."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from harness.engine.cache import Layer, SlotCache
from harness.engine.parts import Part
from harness.engine.prefill import Prefilled
from harness.engine.recall import Recaller
from harness.engine.segment import TEXT
from harness.engine.watch import Watch
from harness.models.attention import grouped, sdpa, step_logits
from harness.models.base import Model
from pruners.base import Pruner, PrunerError
from pruners.views import Entries, State, StepView, Visible


class Extra(NamedTuple):
    """FLOPs of watching and of bringing back, and the cache entries brought back over all layers."""

    monitor: int
    recall: int
    entries: int


class Decode:
    """Runs decode steps over a `SlotCache`. Reached by the attention function as `attend`.

    Attributes:
        visible: [S, Nv] columns that the next pass shows, from layer `from_layer` on.
        kept: [S, Nv] columns left by prefill; dropped: [S, Nv] layers before which a column is always shown.
        read: visual entries read in the last step, per layer [S]; only kept with a step method.
        triggers: [S] slots in which the last step re-selected.
        seen: [S, Nv + 1] share of the layers in which the last step read each column; only while `needs_seen`.
        watch: follows what every layer's new tokens look at; None: nobody does.
    """

    def __init__(self, model: Model, cache: SlotCache, pruner: Pruner, part: Part) -> None:
        self.model, self.cache, self.part = model, cache, part
        stages = pruner.stages()
        self.biased = [s for s in stages if type(s).bias is not Pruner.bias]
        self.stepper = next((s for s in stages if "step" in s.moments()), None)
        self.monitored = self.stepper.step_layer(model.info.depth) if self.stepper else -1
        recalls = self.stepper.recalls() if self.stepper else None
        self.recall = Recaller(model, cache, recalls, part) if recalls else None

        def none(dtype: torch.dtype, *width: int) -> Tensor:
            return torch.zeros(cache.rows, *width, dtype=dtype, device=model.device)

        self.visible, self.kept, self.dropped = none(torch.bool, 0), none(torch.bool, 0), none(torch.long, 0)
        self.merged, self.triggers = none(torch.bool), none(torch.bool)
        self.generated = none(torch.long)
        self.upcoming: Visible | None = None
        self.from_layer = 0
        self.state: State = {}
        self.read: list[Tensor] = []
        self.needs_seen = False
        self.watch: Watch | None = None
        self.seen: Tensor | None = None
        self.monitor = [0] * cache.rows
        """Entries that the monitor has read so far, per slot."""

    @torch.inference_mode()
    def admit(self, slot: int, done: Prefilled, first: State) -> None:
        """Reset a slot's step state for a new sample, whose entries are in the cache already."""
        self.generated[slot], self.monitor[slot] = 0, 0
        if self.stepper is None or self.kept.is_meta:
            return
        if self.upcoming is not None:  # decided for the sample that has left
            self._show(self.upcoming)
            self.upcoming = None
        more = max(0, done.segment.width - self.visible.shape[1])
        pad = torch.nn.functional.pad
        self.visible, self.kept = pad(self.visible, (0, more)), pad(self.kept, (0, more))
        self.dropped = pad(self.dropped, (0, more))
        self.kept[slot], self.dropped[slot], self.merged[slot] = False, 0, False
        segment = done.segment
        self.kept[slot, segment.column if segment.alive is None else segment.column[segment.alive]] = True
        self.visible[slot] = self.kept[slot] if self.recall else True
        if self.recall and segment.held:
            self.dropped[slot] = max(held.layer for held in segment.held)
            for held in segment.held:
                self.dropped[slot, held.column] = held.layer
        if self.recall:
            self.recall.admit(slot, segment.held or [], len(done.prompt.ids))
        for name, shape in self.stepper.state_spec(self.model.info).items():
            width = tuple(self.visible.shape[1] if n == "N" else n for n in shape)
            old = self.state.get(name, torch.zeros(self.cache.rows, *width, device=self.model.device))
            pads = [
                p for have, want in zip(reversed(old.shape[1:]), reversed(width), strict=True) for p in (0, want - have)
            ]
            self.state[name] = pad(old, pads) if pads else old
            self.state[name][slot] = 0
            if name in first:
                self.state[name][slot][tuple(slice(n) for n in first[name].shape)] = first[name]

    def extra(self, slot: int) -> Extra:
        """What the step method has cost the sample in a slot so far."""
        d, reserve = self.model.dims, self.recall.reserves[slot] if self.recall else None
        monitor = 2 * d.heads * d.head_dim * self.monitor[slot]
        return Extra(monitor, reserve.spent if reserve else 0, reserve.entries if reserve else 0)

    @torch.inference_mode()
    def release(self, slot: int) -> None:
        """Forget the sample of a slot; what was decided for it is void."""
        self.kept[slot] = False
        for value in self.state.values():
            value[slot] = 0
        if self.recall:
            self.recall.reserves[slot] = None

    @torch.inference_mode()
    def step(self, tokens: Tensor, live: list[int]) -> Tensor:
        """Logits [S, V] after the tokens [S] just chosen."""
        with self.part("decode"):
            self.read = []
            self.seen = None
            if self.needs_seen and self.stepper is not None:
                self.seen = torch.zeros(self.cache.rows, self.visible.shape[1] + 1, device=self.model.device)
            self.triggers.zero_()
            if self.upcoming is not None:
                self._show(self.upcoming)
                self.upcoming = None
            hidden = self.model.embed(tokens)[:, None]
            ids = self.cache.position[None, ..., None].expand(self.model.axes, -1, -1, -1)
            cos, sin = self.model.rope(ids)
            for k in range(self.model.info.depth):
                hidden = self.model.layer(k, hidden, (cos[k], sin[k]), self)
            logits = self.model.head(self.model.norm(hidden[:, 0]))
        self.cache.step(live)
        self.generated += 1
        return logits

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of each slot's new token over its own entries, less those a step method hides."""
        entries = self.cache.append(layer, key, value)
        longest = max(self.cache.lengths[layer]) + 1
        places = torch.arange(longest, device=query.device)
        valid = (places <= entries.length[:, None])[:, None]
        bias = self._bias(layer, entries, longest)
        if self.stepper is not None:
            if layer == self.monitored:
                self._monitor(self.stepper, entries, query, longest, valid, bias)
            if not query.is_meta:  # no values: as if everything were seen
                valid = valid & self._shown(layer, entries, longest)
        if self.watch is not None and not query.is_meta:
            logits = step_logits(query, entries.keys[:, :, :longest]) + (0 if bias is None else bias[:, :, 0])
            hidden = ~valid.repeat_interleave(logits.shape[1] // valid.shape[1], 1)
            self.watch.look(logits.masked_fill(hidden, -torch.inf), entries.column[:, :, :longest])
        mask = valid[:, :, None]
        if bias is not None:
            mask = torch.zeros_like(bias, dtype=query.dtype).masked_fill(~mask, -torch.inf) + bias.to(query.dtype)
        heads = entries.keys.shape[1]
        out = sdpa(grouped(query, heads), entries.keys[:, :, :longest], entries.values[:, :, :longest], mask)
        return out.transpose(1, 2).reshape(query.shape[0], 1, query.shape[1], -1)  # [S, G, Hkv, d] -> [S, 1, H, d]

    def _shown(self, layer: int, entries: Layer, longest: int) -> Tensor:
        """[S, Hkv or 1, n] entries that may be read: text always, visual ones where the step method shows them."""
        column = entries.column[:, :, :longest]
        if layer < self.from_layer or not self.visible.shape[1]:
            shown = torch.ones_like(column, dtype=torch.bool)
        else:
            seen = self.visible | (layer < self.dropped)
            shown = seen[:, None].expand(-1, column.shape[1], -1).gather(2, column.clamp(min=0))
            shown = torch.where(column < 0, (column == TEXT) | self.merged[:, None, None], shown)
        self.read.append((shown & (column != TEXT)).sum(2).float().mean(1))
        if self.seen is not None:
            n = self.visible.shape[1]
            to, share = torch.where(column < 0, n, column), shown.float() / (column.shape[1] * self.model.info.depth)
            self.seen = self.seen.scatter_add(1, to.flatten(1), share.flatten(1))
        return shown

    def _monitor(
        self, stepper: Pruner, entries: Layer, query: Tensor, longest: int, valid: Tensor, bias: Tensor | None
    ) -> None:
        """Give the step method its logits and take its decision."""
        rows, heads = query.shape[:2]
        with self.part("overhead"):
            logits = step_logits(query, entries.keys[:, :, :longest])
        for slot, length in enumerate(self.cache.lengths[self.monitored]):
            self.monitor[slot] += length + 1
        if query.is_meta:
            return
        logits = logits if bias is None else logits + bias[:, :, 0]
        logits = logits.masked_fill(~valid, -torch.inf)
        column, n = entries.column[:, 0, :longest], self.visible.shape[1]
        is_visual = column >= 0
        # Text goes to one column too many, which is cut off; every visual token has at most one entry.
        to = torch.where(is_visual, column, n)
        wide = to[:, None].expand(-1, heads, -1)
        visual = torch.full((rows, heads, n + 1), -torch.inf, device=query.device).scatter(2, wide, logits)[..., :n]
        place = torch.zeros(rows, n + 1, dtype=torch.long, device=query.device)
        place = place.scatter(1, to, torch.arange(longest, device=query.device).expand(rows, -1))[:, :n]
        text = logits.masked_fill(is_visual[:, None], -torch.inf)

        def reserve(slots: Tensor) -> Tensor:
            if self.recall is None:
                raise PrunerError("only a method that recalls can ask for the tokens that prefill dropped")
            chosen = torch.nonzero(slots).flatten().tolist()
            return self.recall.logits(self.monitored, query, visual, chosen)

        decision = stepper.at_step(
            StepView(
                layer=self.monitored, logits=visual, valid=~visual[:, 0].isinf(), kept=self.kept, visible=self.visible,
                place=place, length=entries.length + 1, step=self.generated, state=self.state,
                rest=lambda temperature: (text / temperature).logsumexp(-1), reserve=reserve,
            )
        )  # fmt: skip
        if decision is not None:
            self.state.update(decision.state)
            if decision.triggers is not None:
                self.triggers |= decision.triggers
            if decision.when == "now":
                if self.recall is not None:  # this step's token is in the cache of some layers already
                    raise PrunerError("what a method that recalls decides can hold from the next step on only")
                self._show(decision)
            else:
                self.upcoming = decision

    def _show(self, decision: Visible) -> None:
        """Put a decision in force; with a method that recalls, tokens without keys get them first."""
        slots = [] if decision.triggers is None else torch.nonzero(decision.triggers).flatten().tolist()
        if self.recall is not None and slots:
            self.recall.fetch(decision.mask, slots)
            if decision.merged is not None:
                self.recall.merge(slots, self.kept)
        self.visible, self.from_layer = decision.mask, decision.from_layer
        if decision.merged is not None:
            self.merged = decision.merged

    def _bias(self, layer: int, entries: Layer, longest: int) -> Tensor | None:
        """[S, 1, 1, n] from the methods that add to attention logits."""
        if not self.biased:
            return None
        rows = []
        for slot in range(self.cache.rows):
            own = Entries(
                entries.positions[slot, :, :longest], entries.size[slot, :longest],
                entries.column[slot, 0, :longest] != TEXT,
            )  # fmt: skip
            now = self.cache.position[layer, slot].expand(len(own.positions), 1)
            terms = [t for s in self.biased if (t := s.bias(layer, now, own)) is not None]
            rows.append(sum(terms, start=torch.zeros(1, longest, device=now.device)))
        return torch.stack(rows)[:, None]
