"""One decode step on the device: from the last tokens of all slots to the logits of the next, reading no value back.

What it works on lies in buffers that stay where they are, and its shapes are known before it starts, so that it can be
compiled and captured (`harness.engine.capture`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from harness.engine.cache import Layer, SlotCache
from harness.engine.parts import Part
from harness.engine.segment import TEXT
from harness.engine.watch import Watch
from harness.models.attention import grouped, sdpa, step_logits
from harness.models.base import Model
from harness.models.varlen import slotted, works
from pruners.base import Pruner, PrunerError
from pruners.views import Entries, State, StepView, no_reserve

WORTH = 0.5
"""Share of the entries up to which copying the shown ones together costs less than reading past the others."""


class Compact(NamedTuple):
    """The shown entries of layers that all hold the same: which ones they are [S, m], which of these count [S, 1, m],
    and how many are visual [S]."""

    entries: Tensor
    valid: Tensor
    visual: Tensor


class Step:
    """The step of all slots over a `SlotCache`. Reached by the attention function as `attend`.

    Attributes:
        tokens: [S] the last token of every slot; live: [S] slots in use, in which lengths and positions count on.
        visible: [S, Nv] columns that the pass shows, from layer `from_layer` on; decided: those of the next pass.
        kept: [S, Nv] columns left by prefill; dropped: [S, Nv] layers before which a column is always shown.
        merged, merging: [S] whether the token that stands for all kept ones is shown, in this pass and in the next.
        state: what the step method keeps per slot; generated: [S] steps so far.
        finite: [S] whether the logits of the last pass are.
        read: [L, S] visual entries read in the last pass; only counted with a step method.
        triggers: [S] slots in which the last pass re-selected.
        seen: [S, Nv + 1] share of the layers in which the last pass read each column; None: nobody asks.
        view, query: what the step method saw in the last pass, and the query [S, H, 1, d] there; merges: whether it
            ever shows the token that stands for all kept ones.
        greedy: the step also chooses its tokens itself; each: slots attend one by one, for the same bits whatever the
            others' lengths.
        watch: follows what every layer's new tokens look at; None: nobody does.
    """

    def __init__(self, model: Model, cache: SlotCache, pruner: Pruner, part: Part) -> None:
        self.model, self.cache, self.part = model, cache, part
        stages = pruner.stages()
        self.biased = [s for s in stages if type(s).bias is not Pruner.bias]
        self.stepper = next((s for s in stages if "step" in s.moments()), None)
        self.recalls = self.stepper is not None and self.stepper.recalls() is not None
        before = {"picture", "encoder", "embed", "step"}
        self.alike = not self.biased and not self.recalls and all(before >= set(s.moments()) for s in stages)
        """Whether all layers hold the same entries in the same order."""
        self.monitored = self.stepper.step_layer(model.info.depth) if self.stepper else -1
        cache.tracks_positions = bool(self.biased)

        def none(dtype: torch.dtype, *width: int) -> Tensor:
            return torch.zeros(cache.rows, *width, dtype=dtype, device=model.device)

        self.tokens, self.live, self.generated = none(torch.long), none(torch.bool), none(torch.long)
        self.visible, self.decided, self.kept = (none(torch.bool, 0) for _ in range(3))
        self.dropped = none(torch.long, 0)
        self.merged, self.merging, self.triggers, self.finite = (none(torch.bool) for _ in range(4))
        self.read = torch.zeros(model.info.depth, cache.rows, device=model.device)
        self.seen: Tensor | None = None
        self.state: State = {}
        self.view: StepView | None = None
        self.query: Tensor | None = None
        self.merges = False
        self.watch: Watch | None = None
        d = model.dims
        self.varlen = works(model.device, model.dtype, d.heads, d.kv_heads, d.head_dim)
        self.from_layer, self.greedy, self.each = 0, False, False
        self.longest: Sequence[int] = ()
        self.text = 0
        self.compact: Compact | None = None

    @property
    def version(self) -> object:
        """Changes when buffers move."""
        return self.cache.grown, self.visible.shape[1], self.seen is None

    def forward(self, longest: Sequence[int], text: int) -> Tensor:
        """Logits [S, V] after `tokens`, attending to the first `longest[layer]` entries of every layer, as far as they
        are there; the new ones included. `text`: no slot has more entries that are not visual."""
        self.longest, self.text, self.compact = longest, text, None
        if self.stepper is not None:
            self.visible.copy_(self.decided)
            self.merged.copy_(self.merging)
            self.triggers.zero_()
        if self.seen is not None:
            self.seen.zero_()
        hidden = self.model.embed(self.tokens)[:, None]
        ids = self.cache.position[None, ..., None].expand(self.model.axes, -1, -1, -1)
        cos, sin = self.model.rope(ids)
        for k in range(self.model.info.depth):
            hidden = self.model.layer(k, hidden, (cos[k], sin[k]), self)
        logits = self.model.head(self.model.norm(hidden[:, 0]))
        self.cache.position += self.live
        self.cache.length += self.live
        self.generated += 1
        self.finite.copy_(logits.isfinite().all(-1))
        if self.greedy:
            self.tokens.copy_(logits.argmax(-1))
        return logits

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of each slot's new token over its own entries, less those a step method hides."""
        entries, n = self.cache.append(layer, key, value), self.longest[layer]
        valid = (self.cache.places[:n] <= entries.length[:, None])[:, None]
        bias = self._bias(layer, entries, n)
        keys, values = entries.keys[:, :, :n], entries.values[:, :, :n]
        if self.stepper is not None:
            if layer == self.monitored:
                self._monitor(self.stepper, entries, query, n, valid, bias)
            if self.compact is not None and layer >= self.from_layer:
                shown = self.cache.row[:, None], slice(None), self.compact.entries
                keys, values = keys[shown].transpose(1, 2), values[shown].transpose(1, 2)
                valid, self.read[layer] = self.compact.valid, self.compact.visual
            elif not query.is_meta:  # no values: as if everything were seen
                valid = valid & self._shown(layer, entries, n)
        if self.watch is not None and not query.is_meta:
            logits = step_logits(query, entries.keys[:, :, :n]) + (0 if bias is None else bias[:, :, 0])
            hidden = ~valid.repeat_interleave(logits.shape[1] // valid.shape[1], 1)
            self.watch.look(logits.masked_fill(hidden, -torch.inf), entries.column[:, :, :n])
        if self.each:
            return self._one_by_one(layer, entries, query)
        hides = self.stepper is not None or bias is not None
        if self.varlen and not hides:
            return slotted(query, entries.keys, entries.values, entries.length + 1, n)
        mask = valid[:, :, None]
        if bias is not None:
            mask = torch.zeros_like(bias, dtype=query.dtype).masked_fill(~mask, -torch.inf) + bias.to(query.dtype)
        heads = entries.keys.shape[1]
        out = sdpa(grouped(query, heads), keys, values, mask)
        return out.transpose(1, 2).reshape(query.shape[0], 1, query.shape[1], -1)  # [S, G, Hkv, d] -> [S, 1, H, d]

    def _one_by_one(self, layer: int, entries: Layer, query: Tensor) -> Tensor:
        """Attention of every slot in shapes of its own."""
        queries, rows = grouped(query, entries.keys.shape[1]), []
        for slot, n in enumerate(self.cache.lengths[layer].tolist()):
            own = slice(slot, slot + 1)
            rows.append(sdpa(queries[own], entries.keys[own, :, : n + 1], entries.values[own, :, : n + 1]))
        return torch.cat(rows).transpose(1, 2).reshape(query.shape[0], 1, query.shape[1], -1)

    def _shown(self, layer: int, entries: Layer, n: int) -> Tensor:
        """[S, Hkv or 1, n] entries that may be read: text always, visual ones where the step method shows them."""
        column = entries.column[:, :, :n]
        if layer < self.from_layer or not self.visible.shape[1]:
            shown = torch.ones_like(column, dtype=torch.bool)
        else:
            seen = self.visible | (layer < self.dropped)
            shown = seen[:, None].expand(-1, column.shape[1], -1).gather(2, column.clamp(min=0))
            shown = torch.where(column < 0, (column == TEXT) | self.merged[:, None, None], shown)
        self.read[layer] = (shown & (column != TEXT)).sum(2).float().mean(1)
        if self.seen is not None:
            width = self.visible.shape[1]
            share = shown.float() / (column.shape[1] * self.model.info.depth)
            self.seen.scatter_add_(1, torch.where(column < 0, width, column).flatten(1), share.flatten(1))
        return shown

    def _monitor(
        self, stepper: Pruner, entries: Layer, query: Tensor, n: int, valid: Tensor, bias: Tensor | None
    ) -> None:
        """Give the step method its logits and take its decision."""
        rows, heads = query.shape[:2]
        with self.part("overhead"):
            logits = step_logits(query, entries.keys[:, :, :n])
        if query.is_meta:
            return
        logits = logits if bias is None else logits + bias[:, :, 0]
        logits = logits.masked_fill(~valid, -torch.inf)
        column, width = entries.column[:, 0, :n], self.visible.shape[1]
        is_visual = column >= 0
        # Text goes to one column too many, which is cut off; every visual token has at most one entry.
        to = torch.where(is_visual, column, width)
        wide = to[:, None].expand(-1, heads, -1)
        visual = torch.full((rows, heads, width + 1), -torch.inf, device=query.device).scatter(2, wide, logits)
        place = torch.zeros(rows, width + 1, dtype=torch.long, device=query.device)
        place = place.scatter(1, to, self.cache.places[:n].expand(rows, -1))
        text = logits.masked_fill(is_visual[:, None], -torch.inf)
        visual = visual[..., :width]
        self.view = StepView(
            layer=self.monitored, logits=visual, valid=~visual[:, 0].isinf(), kept=self.kept, visible=self.visible,
            place=place[:, :width], length=entries.length + 1, longest=n, step=self.generated, state=self.state,
            rest=lambda temperature: (text / temperature).logsumexp(-1),
            reserve=no_reserve,  # named, because a compiler cannot keep a default that is a function
        )  # fmt: skip
        self.query = query
        decision = stepper.at_step(self.view)
        if decision is None:
            return
        for name, value in decision.state.items():
            self.state[name].copy_(value)
        if decision.triggers is not None:
            self.triggers.copy_(decision.triggers)
        self.from_layer = decision.from_layer
        self.decided.copy_(decision.mask)
        if decision.merged is not None:
            self.merges = True
            self.merging.copy_(decision.merged)
        if decision.when == "now":
            if self.recalls:  # this step's token is in the cache of some layers already
                raise PrunerError("what a method that recalls decides can hold from the next step on only")
            self.visible.copy_(self.decided)
            self.merged.copy_(self.merging)
            if decision.most is not None and self.alike and self.seen is None and self.watch is None:
                self.compact = self._compact(entries, n, valid[:, 0], decision.most + self.text)

    def _compact(self, entries: Layer, n: int, valid: Tensor, most: int) -> Compact | None:
        """The shown entries, of which no slot has more than `most`; None: they are too many to be worth it."""
        if most > WORTH * n:
            return None
        column = entries.column[:, 0, :n]
        shown = valid & ((column == TEXT) | self.visible.gather(1, column.clamp(min=0)))
        to = torch.where(shown, shown.cumsum(1) - 1, most)  # what is not shown goes to one place too many
        index = torch.zeros(len(to), most + 1, dtype=torch.long, device=to.device)
        index = index.scatter(1, to, self.cache.places[:n].expand(len(to), -1))[:, :most]
        valid = (self.cache.places[:most] < shown.sum(1, keepdim=True))[:, None]
        return Compact(index, valid, (shown & (column != TEXT)).sum(1).float())

    def _bias(self, layer: int, entries: Layer, n: int) -> Tensor | None:
        """[S, 1, 1, n] from the methods that add to attention logits."""
        if not self.biased:
            return None
        rows = []
        for slot in range(self.cache.rows):
            own = Entries(entries.positions[slot, :, :n], entries.size[slot, :n], entries.column[slot, 0, :n] != TEXT)
            now = self.cache.position[layer, slot].expand(len(own.positions), 1)
            terms = [t for s in self.biased if (t := s.bias(layer, now, own)) is not None]
            rows.append(sum(terms, start=torch.zeros(1, n, device=now.device)))
        return torch.stack(rows)[:, None]
