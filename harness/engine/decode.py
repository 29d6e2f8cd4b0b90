"""One decode step for all slots, with step methods and attention biases."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.engine.attention import grouped, sdpa
from harness.engine.cache import Layer, SlotCache
from harness.engine.parts import Part
from harness.engine.prefill import Prefilled
from harness.engine.segment import TEXT
from harness.models.base import Model
from pruners.base import Pruner, PrunerError, State, StepView, Visible
from pruners.layout import columns


class Decode:
    """Runs decode steps over a `SlotCache`. Reached by the attention function as `attend`.

    Attributes:
        visible: [S, Nv] visual tokens that a step method leaves visible, from layer `from_layer` on; None without one.
        read: per layer, visual keys read in the last step [S]; only kept with a step method.
    """

    def __init__(self, model: Model, cache: SlotCache, pruner: Pruner, part: Part) -> None:
        self.model, self.cache, self.part = model, cache, part
        stages = pruner.stages()
        self.biased = [s for s in stages if type(s).bias is not Pruner.bias]
        self.stepper = next((s for s in stages if "step" in s.moments()), None)
        self.monitored = self.stepper.step_layer(model.info.depth) if self.stepper else -1
        self.visible = torch.ones(cache.rows, 0, dtype=torch.bool, device=model.device)
        self.kept = torch.zeros(cache.rows, 0, dtype=torch.bool, device=model.device)
        self.upcoming: Visible | None = None
        self.from_layer = 0
        self.state: State = {}
        self.generated = torch.zeros(cache.rows, dtype=torch.long, device=model.device)
        self.read: list[Tensor] = []
        self.changed = torch.zeros(cache.rows, dtype=torch.bool, device=model.device)

    def admit(self, slot: int, done: Prefilled, first: State) -> None:
        """Reset a slot's step state for a new sample."""
        self.generated[slot] = 0
        if self.stepper is None:
            return
        kept = columns(done.segment.token, len(done.prompt.visual))
        made = 0 if kept.is_meta else int((done.segment.token < 0).sum())
        more = len(done.prompt.visual) + made - self.visible.shape[1]
        if more > 0:
            self.visible = torch.nn.functional.pad(self.visible, (0, more), value=True)
            self.kept = torch.nn.functional.pad(self.kept, (0, more))
        self.visible[slot] = True
        self.kept[slot] = False
        self.kept[slot, kept] = True
        for name, shape in self.stepper.state_spec(self.model.info).items():
            width = tuple(self.visible.shape[1] if n == "N" else n for n in shape)
            old = self.state.get(name, torch.zeros(self.cache.rows, *width, device=self.model.device))
            pads = [
                p for have, want in zip(reversed(old.shape[1:]), reversed(width), strict=True) for p in (0, want - have)
            ]
            self.state[name] = torch.nn.functional.pad(old, pads) if pads else old
            self.state[name][slot] = 0
            if name in first:
                self.state[name][slot][tuple(slice(n) for n in first[name].shape)] = first[name]

    def _reserve(self, slots: Tensor) -> Tensor:
        """Logits over the tokens that prefill dropped."""
        raise PrunerError("only a method with `recall` can bring tokens back")

    @torch.inference_mode()
    def step(self, tokens: Tensor, live: list[int]) -> Tensor:
        """Logits [S, V] after the tokens [S] just chosen."""
        with self.part("decode"):
            self.read = []
            self.changed.zero_()
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
        if self.stepper is not None:
            if layer == self.monitored:
                with self.part("overhead"):
                    self._monitor(entries, query, longest, valid)
            valid = valid & self._shown(layer, entries, longest)
        mask = valid[:, :, None]
        bias = self._bias(layer, entries, longest)
        if bias is not None:
            mask = torch.zeros_like(bias, dtype=query.dtype).masked_fill(~mask, -torch.inf) + bias.to(query.dtype)
        heads = entries.keys.shape[1]
        out = sdpa(grouped(query, heads), entries.keys[:, :, :longest], entries.values[:, :, :longest], mask)
        return out.transpose(1, 2).reshape(query.shape[0], 1, query.shape[1], -1)  # [S, G, Hkv, d] -> [S, 1, H, d]

    def _shown(self, layer: int, entries: Layer, longest: int) -> Tensor:
        """[S, 1, n] entries that may be read: text always, visual ones where the step method shows them."""
        token = entries.token[:, :, :longest]
        if layer < self.from_layer or not self.visible.shape[1]:
            shown = torch.ones_like(token, dtype=torch.bool)
        else:
            shown = self.visible[:, None].expand(-1, token.shape[1], -1).gather(2, token.clamp(min=0)) | (token < 0)
        self.read.append((shown & (token != TEXT)).sum(2).float().mean(1))
        return shown

    def _monitor(self, entries: Layer, query: Tensor, longest: int, valid: Tensor) -> None:
        """Give the step method its logits and take its decision."""
        assert self.stepper is not None
        rows, heads = query.shape[:2]
        keys = entries.keys[:, :, :longest].float()
        logits = (grouped(query, keys.shape[1]).float() @ keys.transpose(2, 3)).reshape(rows, heads, longest)
        logits = (logits * query.shape[-1] ** -0.5).masked_fill(~valid, -torch.inf)
        token = entries.token[:, 0, :longest]
        is_visual = token >= 0
        # Text goes to one column too many, which is cut off; every visual token has at most one entry.
        n = self.visible.shape[1]
        column = torch.where(is_visual, token, n)[:, None].expand(-1, heads, -1)
        visual = torch.full((rows, heads, n + 1), -torch.inf, device=query.device).scatter(2, column, logits)[..., :n]
        places = torch.arange(longest, device=query.device).expand(rows, -1)
        text = logits.masked_fill(is_visual[:, None], -torch.inf)
        decision = self.stepper.at_step(
            StepView(
                logits=visual, valid=~visual[:, 0].isinf(), kept=self.kept,
                place=torch.zeros(rows, n + 1, dtype=torch.long, device=query.device).scatter(
                    1, column[:, 0], places
                )[:, :n],
                length=entries.length + 1, step=self.generated, state=self.state,
                rest=lambda temperature: (text / temperature).logsumexp(-1), reserve=self._reserve,
            )
        )  # fmt: skip
        if decision is not None:
            self.state.update(decision.state)
            if decision.when == "now":
                self._show(decision)
            else:
                self.upcoming = decision

    def _show(self, decision: Visible) -> None:
        self.changed |= (decision.mask != self.visible).any(1)
        self.visible, self.from_layer = decision.mask, decision.from_layer

    def _bias(self, layer: int, entries: Layer, longest: int) -> Tensor | None:
        """[S, 1, 1, n] from the methods that add to attention logits."""
        if not self.biased:
            return None
        rows = []
        for slot in range(self.cache.rows):
            own = entries.positions[slot, :, :longest]
            now = self.cache.position[layer, slot].expand(own.shape[0], 1)
            terms = [s.bias(layer, now, own, entries.size[slot, :longest]) for s in self.biased]
            rows.append(sum((t for t in terms if t is not None), start=torch.zeros(1, longest, device=own.device)))
        return torch.stack(rows)[:, None]
