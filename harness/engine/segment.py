"""One sample on its way through prefill: the current sequence, and what every row of it stands for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pruners.base import Sample, State
from pruners.layout import Scope
from pruners.selection import Selection

Choice = tuple[int | None, Tensor, Selection | None]
"""One group of a partition of the visual rows: its picture (None: several), its entries, what was selected from it."""

TEXT = -2
"""Marks text (and generated) entries where visual ones carry their row of the layout, and made ones -1."""


@dataclass
class Segment:
    """The current sequence of one sample; every tensor lives on the model's device.

    Bookkeeping never reads values from the device, so that it costs no synchronisation and runs on `meta`: how many
    visual tokens each picture has left is known from shapes.

    Attributes:
        hidden: [l, D] rows about to enter the next layer.
        positions: [A, l]; next_position: id of the first generated token in the layers to come.
        index: [l] place of each row in the original prompt (made rows: that of the row before).
        size: [l] original tokens that a row stands for.
        text, visual: places of the text rows and of the visual rows in the sequence.
        token: [nv] row of the layout of each visual row, -1 for made ones.
        pictures: visual rows left per picture; `visual` lists them picture by picture.
        deepstack: [J, nv, D] rows still to be added.
    """

    sample: Sample
    hidden: Tensor
    positions: Tensor
    next_position: int
    index: Tensor
    size: Tensor
    text: Tensor
    visual: Tensor
    token: Tensor
    pictures: list[int]
    deepstack: Tensor
    states: list[State] = field(default_factory=list)
    kept: list[dict[str, Any]] = field(default_factory=list)
    visual_per_layer: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    overhead: int = 0

    def __len__(self) -> int:
        return self.hidden.shape[0]

    def groups(self, scope: Scope) -> list[tuple[int | None, Tensor]]:
        """A partition of the entries of `visual` into crops, pictures or the prompt, with the picture of each part."""
        every = torch.arange(sum(self.pictures), device=self.visual.device)
        if scope == "prompt":
            only = 0 if len(self.pictures) == 1 else None
            return [(only, every)] if len(every) else []
        per_picture: list[tuple[int | None, Tensor]] = [
            (i, part) for i, part in enumerate(every.split(self.pictures)) if len(part)
        ]
        if scope == "picture":
            return per_picture
        crop = self.sample.layout.crop.to(every.device)[self.token.clamp(min=0)]  # made rows go with the first crop
        return [(i, part[crop[part] == c]) for i, part in per_picture for c in crop[part].unique()]

    def tokens(self) -> Tensor:
        """[l] layout row of every row, -1 for made, TEXT for text."""
        out = torch.full((len(self),), TEXT, device=self.visual.device)
        out[self.visual] = self.token
        return out

    def apply(self, chosen: list[Choice]) -> None:
        """Replace the visual rows by what was selected from each group of a partition (None: all stay).

        A kept row stays where its source stood. A selection that is not in sequence order is laid out in its own order,
        each row as early as the rows before it admit; a made row follows the row before it.
        """
        new = [self._taken(group, selection) for _, group, selection in chosen]
        place = torch.cat([part.place for part in new])
        pictures = [0] * len(self.pictures)
        for (picture, _, _), part in zip(chosen, new, strict=True):
            if picture is None and place.is_meta:  # no values: costs depend on the sum alone
                pictures[0] += len(place)
            elif picture is None:  # one selection over several pictures: the place of a row tells its picture
                last = self.visual[torch.tensor(self.pictures).cumsum(0).to(place.device) - 1]
                pictures = torch.bincount(torch.searchsorted(last, place), minlength=len(pictures)).tolist()
            else:
                pictures[picture] += len(part.place)
        order = torch.cat([self.text, place]).argsort(stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=order.device)
        text, n = self.text, len(self.text)
        self.hidden = torch.cat([self.hidden[text], *(part.hidden for part in new)])[order]
        self.positions = torch.cat([self.positions[:, text], *(part.positions for part in new)], dim=1)[:, order]
        self.size = torch.cat([self.size[text], *(part.size for part in new)])[order]
        self.index = torch.cat([self.index[text], self.index[place]])[order]
        self.token = torch.cat([part.token for part in new])
        self.deepstack = torch.cat([part.deepstack for part in new], dim=1)
        self.text, self.visual, self.pictures = rank[:n], rank[n:], pictures
        if any(s is not None and isinstance(s.positions, str) and s.positions == "renumber" for _, _, s in chosen):
            self.positions = torch.arange(len(self), device=order.device).expand(len(self.positions), -1)
            self.next_position = len(self)

    def _taken(self, group: Tensor, selection: Selection | None) -> _Rows:
        """The rows that a selection makes of one group."""
        if selection is None:
            selection = Selection(torch.arange(len(group), device=group.device))
        at, made = self.visual[group], selection.source < 0
        source = selection.source.clamp(min=0)
        place = torch.where(made, at[:1], at[source]).cummax(0).values if len(source) else source
        given = selection.positions
        return _Rows(
            hidden=selection.rows(self.hidden[at]),
            positions=given.to(self.positions) if isinstance(given, Tensor) else self.positions[:, place],
            size=selection.sizes(self.size[at]),
            place=place,
            token=torch.where(made, -1, self.token[group][source]) if len(source) else source,
            deepstack=torch.stack([selection.rows(rows[group]) for rows in self.deepstack])
            if len(self.deepstack) else self.deepstack[:, :0].expand(0, len(source), -1),
        )  # fmt: skip


class _Rows(NamedTuple):
    """Rows that take the place of one group; shapes as in `Segment`."""

    hidden: Tensor
    positions: Tensor
    size: Tensor
    place: Tensor
    token: Tensor
    deepstack: Tensor
