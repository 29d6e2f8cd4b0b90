"""Prefill: several prompts as one ragged sequence through the layers, methods acting on their own segments."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from harness.accounting.flops import TowerLayer, project_flops
from harness.engine.layer_cache import LayerCache, edited
from harness.engine.parts import Part
from harness.engine.segment import TEXT, Choice, Crops, Segment
from harness.engine.sequence import recorded, sequence
from harness.engine.signals import Record, record_layer
from harness.engine.trace import Request
from harness.models.attention import sdpa, step_logits
from harness.models.base import Features, Model, Prompt
from harness.models.varlen import packed, works
from pruners.base import Pruner
from pruners.selection import Selection
from pruners.signals import Signal
from pruners.views import CacheEdit, CacheView, Entries, State, View

Entry = tuple[Request, Prompt, list[Features]]
"""A sample whose vision features are at hand."""


@dataclass
class Prefilled:
    """A sample ready to decode."""

    request: Request
    prompt: Prompt
    segment: Segment
    tower_tokens: list[list[TowerLayer]]
    cache: list[LayerCache]
    logits: Tensor
    records: list[Record] = field(repr=False)
    last: list[tuple[Tensor, Tensor]] = field(default_factory=list, repr=False)
    """Per layer, only where asked for: logits [H, n] of the last prompt token, and the columns [n] of the entries."""

    seconds: float = 0.0
    """What its share of the prefill took."""

    def __post_init__(self) -> None:
        self.entries = [layer.keys.shape[1] for layer in self.cache]
        self.visual = [layer.visual for layer in self.cache]

    def forget(self) -> None:
        """Let go of what only the start of decoding needs."""
        self.cache, self.records, self.last, self.segment.held = [], [], [], None


class Prefill:
    """Runs the stages of one method over packed prompts. Reached by the attention function as `attend`."""

    def __init__(self, model: Model, pruner: Pruner, part: Part, watched: bool = False) -> None:
        self.model, self.part, self.stages, self.watched = model, part, pruner.stages(), watched
        self.signals = [tuple(stage.signals(model.info)) for stage in self.stages]
        self.at_layers = [stage.layers(model.info.depth) for stage in self.stages]
        self.biased = [s for s in self.stages if type(s).bias is not Pruner.bias]
        self.recall = next((how for stage in self.stages if (how := stage.recalls())), None)
        d = model.dims
        self.varlen = works(model.device, model.dtype, d.heads, d.kv_heads, d.head_dim)
        self.segments: list[Segment] = []
        self.records: list[list[Record]] = []
        self.caches: list[list[LayerCache]] = []
        self.last: list[list[tuple[Tensor, Tensor]]] = []

    @torch.inference_mode()
    def run(self, batch: list[Entry]) -> list[Prefilled]:
        """Prefill samples together; their time is shared out by tokens."""
        began = time.perf_counter()
        with self.part("prefill"):
            built = [self._segment(*entry) for entry in batch]
            self.segments, self.records = [s for s, _ in built], [r for _, r in built]
            self.caches, self.last = [[] for _ in batch], [[] for _ in batch]
            for layer in range(self.model.info.depth):
                self._act(layer)
                self._layer(layer)
            last = torch.stack([segment.hidden[-1] for segment in self.segments])
            logits = self.model.head(self.model.norm(last))
        self._edit_caches()
        done = [
            Prefilled(
                request, prompt, segment, [crop for f in features for crop in f.tower_tokens], cache, row, records, last
            )
            for (request, prompt, features), segment, cache, row, records, last in zip(
                batch, self.segments, self.caches, logits, self.records, self.last, strict=True
            )
        ]
        self.segments, self.records, self.caches, self.last = [], [], [], []
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)  # so that the clock tells the truth
        share = (time.perf_counter() - began) / sum(len(prompt.ids) for _, prompt, _ in batch)
        for prefilled in done:
            prefilled.seconds = share * len(prefilled.prompt.ids)
        return done

    @torch.inference_mode()
    def begin(self, done: Prefilled) -> State:
        """First state of the step method, read from what this prefill recorded of a sample."""
        i = next((i for i, stage in enumerate(self.stages) if "step" in stage.moments()), None)
        segment = done.segment
        if i is None or segment.hidden.is_meta:
            return {}
        group = torch.arange(segment.visual_count, device=self.model.device)
        group = group if segment.alive is None else group[segment.alive]
        layer = self.stages[i].step_layer(self.model.info.depth)
        return self.stages[i].begin(self.view(i, segment, done.records, layer, list(segment.crops), group))

    def _segment(self, request: Request, prompt: Prompt, features: list[Features]) -> tuple[Segment, list[Record]]:
        """The sequence before layer 0, after the embed moments."""
        segment = sequence(self.model, self.part, request, prompt, features)
        if self.recall is not None:
            segment.held = []
            segment.alive = torch.ones_like(segment.visual, dtype=torch.bool) if self.recall == "dense" else None
        segment.states = [stage.start(segment.sample) for stage in self.stages]
        records = [recorded(signals, prompt, features) for signals in self.signals]
        for i, stage in enumerate(self.stages):
            if "embed" in stage.moments():
                self._select(i, segment, records, None, stage.at_embed)
        return segment, records

    def _act(self, layer: int) -> None:
        """Layer moments at the entrance of a layer."""
        for i, stage in enumerate(self.stages):
            if layer in self.at_layers[i]:
                for segment, records in zip(self.segments, self.records, strict=True):
                    self._select(i, segment, records, layer, stage.at_layer)

    def _select(
        self,
        i: int,
        segment: Segment,
        records: list[Record],
        layer: int | None,
        rule: Callable[[View], Selection | None],
    ) -> None:
        """Let stage i choose among the visual tokens of one sample, group by group."""
        stage, chosen = self.stages[i], list[Choice]()
        shown = layer is not None or stage.newlines == "see"
        with self.part("overhead"):
            for keys, group in segment.groups(stage.scope, newlines=shown):
                if segment.ends_rows(keys[0]) and not shown:
                    chosen.append((keys, group, None))
                    continue
                view = self.view(i, segment, records, layer, keys, group)
                chosen.append((keys, group, rule(replace(view, crops=segment.by_crop(keys, group)))))
                segment.overhead += stage.flops(
                    self.model.info, "embed" if layer is None else "layer", len(group), segment.hidden.shape[1]
                )
        if any(selection is not None for _, _, selection in chosen):
            if stage.newlines == "drop" and not shown:
                chosen = without_newlines(segment, chosen)
            segment.kept.append({"layer": layer, "chosen": [(group, s) for _, group, s in chosen]})
            if segment.alive is None:
                segment.apply(chosen, layer or 0, stage.may_repeat)
            else:
                segment.hold(chosen, layer or 0)

    def view(
        self, i: int, segment: Segment, records: list[Record], layer: int | None, keys: Crops, group: Tensor
    ) -> View:
        """What stage i sees of one group of visual rows."""

        def qk(k: int, turned: bool = True) -> tuple[Tensor, Tensor]:
            segment.overhead += 2 * len(segment) * dims.hidden * (dims.heads + dims.kv_heads) * dims.head_dim
            ids = segment.positions * turned  # RoPE turns nothing at position 0
            return self.model.qk(k, segment.hidden, ids)

        def project(units: Tensor) -> Tensor:
            segment.overhead += project_flops(dims, len(units))
            return self.model.project(units)

        def charge(flops: int) -> None:
            segment.overhead += flops

        dims, pictures = self.model.dims, {picture for picture, _ in keys}
        return View(
            sample=segment.sample, layer=layer, picture=pictures.pop() if len(pictures) == 1 else None,
            column=segment.column[group],
            index=segment.visual[group], hidden=segment.hidden, positions=segment.positions,
            size=segment.size[segment.visual[group]], state=segment.states[i],
            record=lambda signal, places: records[i].read(signal, segment, places), qk=qk, final_norm=self.model.norm,
            project=project, charge=charge,
        )  # fmt: skip

    def _layer(self, layer: int) -> None:
        """One decoder layer over the packed segments, then its DeepStack rows."""
        lengths = [len(segment) for segment in self.segments]
        rope = self.model.rope(torch.cat([segment.positions for segment in self.segments], dim=1)[:, None])
        packed = torch.cat([segment.hidden for segment in self.segments])[None]
        rows = self.model.layer(layer, packed, rope, self)[0].split(lengths)
        for segment, hidden in zip(self.segments, rows, strict=True):
            segment.visual_per_layer.append(segment.visual_count)
            segment.lengths.append(len(segment))
            if layer < len(segment.deepstack):
                hidden = hidden.index_add(0, segment.visual, segment.deepstack[layer])
            segment.hidden = hidden

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Causal attention inside each segment; declared signals are recorded, keys and values stored."""
        lengths = [len(segment) for segment in self.segments]
        out, together = [], self.varlen and not self.biased
        if together:
            ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(query.device, non_blocking=True)
            out.append(packed(query, key, value, ends, max(lengths)))
        parts = zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True)
        for s, (q, k, v) in enumerate(parts):
            segment = self.segments[s]
            mask = self._bias(layer, segment, q)
            with self.part("overhead"):
                for signals, state, record in zip(self.signals, segment.states, self.records[s], strict=True):
                    segment.overhead += record_layer(signals, layer, segment, state, record, q[0], k[0], v[0], mask)
            if not together:
                out.append(sdpa(q, k, v, mask, causal=mask is None))
            if self.watched:
                row = step_logits(q[:, :, -1:], k)[0]
                self.last[s].append((row if mask is None else row + mask[-1].float(), segment.columns()))
            own = k[0].contiguous(), v[0].contiguous()  # they share memory with queries and other samples
            self.caches[s].append(
                LayerCache(*own, segment.columns(), segment.index, segment.size, segment.positions,
                           segment.next_position, segment.visual_count)
            )  # fmt: skip
        return torch.cat(out, dim=1)

    def _bias(self, layer: int, segment: Segment, q: Tensor) -> Tensor | None:
        """Causal mask plus what the methods add to attention logits; None keeps the mask-free path."""
        if not self.biased:
            return None
        own = Entries(segment.positions, segment.size, segment.columns() != TEXT)
        extra = [stage.bias(layer, segment.positions, own) for stage in self.biased]
        terms = [term for term in extra if term is not None]
        if not terms:
            return None
        causal = torch.full((len(segment), len(segment)), -torch.inf, device=q.device).triu(1)
        return (causal + sum(terms)).to(q.dtype)

    def _edit_caches(self) -> None:
        """Cache moments, once after prefill."""
        for i, stage in enumerate(self.stages):
            if "cache" not in stage.moments():
                continue
            for segment, caches, records in zip(self.segments, self.caches, self.records, strict=True):
                edits: dict[int, CacheEdit] = {}
                for layer, cache in enumerate(caches):
                    heads, _, width = cache.keys.shape
                    segment.overhead += stage.flops(self.model.info, "cache", cache.visual, heads * width)
                    with self.part("overhead"):
                        edit = stage.at_cache(self._cache_view(i, segment, records[i], layer, cache))
                    if edit is not None:
                        edits[layer] = edit
                for layer, cache in edited(caches, edits).items():
                    caches[layer] = cache

    def _cache_view(self, i: int, segment: Segment, record: Record, layer: int, cache: LayerCache) -> CacheView:
        def read(signal: Signal, places: Tensor | None) -> Any:
            return record.read(signal, segment, places)

        def charge(flops: int) -> None:
            segment.overhead += flops

        return CacheView(
            segment.sample, layer, cache.keys, cache.values, cache.column, cache.index, segment.states[i], read, charge
        )


def without_newlines(segment: Segment, chosen: list[Choice]) -> list[Choice]:
    """The same choices, but that newlines leave the pictures of which something was selected."""
    acted = {picture: s.positions for keys, _, s in chosen if s is not None for picture, _ in keys}

    def left(keys: Crops, group: Tensor, selection: Selection | None) -> Selection | None:
        if keys[0][0] not in acted or not segment.ends_rows(keys[0]):
            return selection
        ids = acted[keys[0][0]]
        return Selection(group[:0], positions=ids[:, :0] if isinstance(ids, Tensor) else ids)

    return [(keys, group, left(keys, group, selection)) for keys, group, selection in chosen]
