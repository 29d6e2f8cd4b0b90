"""Maps by which visual tokens are ranked, and how well each finds what the answer needs (DeSAP, figures 1, 2, 6-9)."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from harness.benchmarks.base import Item
from harness.engine import Decoding, Request
from harness.models.pictures import open_picture
from harness.report.analysis.kind import Ask
from harness.report.analysis.live import asked, cells, load, model_names
from harness.report.analysis.stored import watched_layer
from harness.runs.errors import InputError
from pruners.base import Pruner
from pruners.desap import DeSAP
from pruners.layout import Scope, VisualLayout
from pruners.signals import Attention, Signal
from pruners.tower import TowerScored
from pruners.views import CacheView, ModelInfo, Sample, View

if TYPE_CHECKING:
    from harness.engine import Engine

KINDS = ("cls", "cross", "vanilla", "decoupled")
"""In this order: attention of the tower's class token (received attention where there is none) in its last layer,
attention of the last prompt token in the language model, cosine to the end of the question as CLIP has it, and DeSAP's
task score."""
ATTENTION = ("cls", "cross")
"""Those that are shares of a whole, so that a mean over samples says which places are preferred."""
LIMIT = 200
DRAWN = 2
"""Samples of each task that are drawn."""
BINS = 32
"""Parts of the visual sequence over which attention is averaged."""
SIDE = 256
"""Pixels that the longer side of a drawn picture has at most."""

Maps = dict[str, NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Mapped(Pruner):
    """Keeps everything, and the maps [N] of every sample by kind in `found`, its layout in `layouts`.

    Attributes:
        kinds: some of KINDS.
        layer: of the language model, for "cross".
    """

    scope: ClassVar[Scope] = "crop"
    newlines: ClassVar[Any] = "keep"
    kinds: tuple[str, ...]
    layer: int
    cls: TowerScored = field(default_factory=partial(TowerScored, layer=-1))
    vanilla: DeSAP = field(default_factory=partial(DeSAP, similarity="vanilla", fine_grained=False))
    decoupled: DeSAP = field(default_factory=DeSAP)
    found: dict[str, Maps] = field(default_factory=dict, repr=False, compare=False)
    samples: dict[str, Sample] = field(default_factory=dict, repr=False, compare=False)

    def resolved(self, model: ModelInfo) -> Mapped:
        made = {name: getattr(self, name).resolved(model) for name in ("cls", "vanilla", "decoupled")}
        return replace(self, **made)

    def signals(self, model: ModelInfo) -> Sequence[Signal]:
        patches = [signal for kind in ("vanilla", "decoupled") if kind in self.kinds
                   for signal in getattr(self, kind).resolved(model).patches]  # fmt: skip
        own = [self.cls.resolved(model).attention] if "cls" in self.kinds else []
        return tuple(dict.fromkeys([*own, *patches, *([self.cross] if "cross" in self.kinds else [])]))

    @property
    def cross(self) -> Attention:
        """Attention of the last prompt token to visual tokens, mean over heads."""
        return Attention(self.layer)

    def at_embed(self, view: View) -> None:
        rules: dict[str, Callable[[View], Tensor]] = {
            "cls": lambda view: view[self.cls.attention],
            "vanilla": self.vanilla.task, "decoupled": self.decoupled.task,
        }  # fmt: skip
        for kind in rules.keys() & set(self.kinds):
            self._maps(view.sample, kind)[view.token.cpu().numpy()] = rules[kind](view).cpu().double().numpy()

    def at_cache(self, view: CacheView) -> None:
        if view.layer == self.layer and "cross" in self.kinds:
            attention = view[self.cross][view.sample.visual]  # nothing has left the prompt
            self._maps(view.sample, "cross")[:] = attention.cpu().double().numpy()

    def _maps(self, sample: Sample, kind: str) -> NDArray[np.float64]:
        self.samples[sample.id] = sample
        return self.found.setdefault(sample.id, {}).setdefault(kind, np.full(len(sample.layout), np.nan))


def measure(ask: Ask) -> pd.DataFrame:
    """Rows of five parts:

    * score: per sample and kind, how the map ranks the needed tokens (`scores`), and `change`, 1 - Pearson's r to the
      map of another question on the same pictures.
    * profile: per kind and `bin`, one of BINS parts of the visual sequence, its mean `value`; even would be 1.
    * map: of drawn samples per kind and token its `value`, its box in fractions of the picture, and whether it is
      `needed`; picture: the picture of a drawn sample as a PNG in base 64 (`png`).
    * skipped: a kind that a model does not have, and the `reason`.

    Raises:
        InputError: a kind is unknown, or a benchmark does not name what its answers need.
    """
    if unknown := set(ask.kinds) - set(KINDS):
        raise InputError(f"unknown map {min(unknown)!r}; known: {', '.join(KINDS)}")
    return pd.DataFrame([row for name in model_names(ask) for row in _of_model(ask, name)])


def _of_model(ask: Ask, name: str) -> Iterator[dict[str, Any]]:
    engine: Engine | None = None
    for cell in cells(ask, name, [["pruner=none"]]):
        pairs = list(asked(cell, ask.limit or LIMIT))
        if not pairs[0][0].needed:
            raise InputError(
                f"maps need a benchmark that names what its answers need, not {cell.config.benchmark.name}"
            )
        first, engine = engine is None, engine or load(ask, cell)
        info, kinds = engine.model.info, ask.kinds or KINDS
        missing = [kind for kind in kinds if kind in ("vanilla", "decoupled") and not info.has_text_tower]
        about = {"model": name, "task": cell.config.benchmark.name}
        for kind in missing if first else []:
            yield {"part": "skipped", "model": name, "kind": kind, "reason": "its tower has no CLIP text"}
        wanted = Mapped(kinds=tuple(k for k in kinds if k not in missing), layer=watched_layer(ask, info.depth))
        profiles: dict[str, list[NDArray[np.float64]]] = {}
        for i, ((item, _), (sample, maps, other)) in enumerate(zip(pairs, _found(engine, wanted, pairs), strict=True)):
            start = item.needed[:1]  # of walks: the region that the question names
            needed = np.flatnonzero(sample.layout.shows(start)[0].numpy())
            if not len(needed):  # cut off on the way to the tower
                continue
            if i < DRAWN:
                yield from _drawn(about | {"id": item.id}, item, sample.layout, maps, needed)
            for kind, values in maps.items():
                row = {"part": "score", **about, "id": item.id, "category": item.category, "kind": kind}
                yield row | scores(values, needed) | {"change": _change(values, other[kind])}
                if kind in ATTENTION:
                    profiles.setdefault(kind, []).append(_profile(values))
        for kind, rows in profiles.items():
            for number, value in enumerate(np.nanmean(rows, axis=0)):
                yield {"part": "profile", **about, "kind": kind, "bin": number, "value": value}


def _found(engine: Engine, wanted: Mapped, pairs: list[tuple[Item, Request]]) -> Iterator[tuple[Sample, Maps, Maps]]:
    """Of every sample its maps, and those of the next sample's question on its pictures."""
    own = [request for _, request in pairs]
    texts = [tuple(part for part in request.content if isinstance(part, str)) for request in own]
    pictures = [tuple(part for part in request.content if not isinstance(part, str)) for request in own]
    others = [
        replace(request, id=f"{request.id} other", content=(*shown, *text))
        for request, shown, text in zip(own, pictures, [*texts[1:], texts[0]], strict=True)
    ]
    for trace in engine.run([*own, *others], wanted, Decoding(max_new_tokens=1)):
        if trace.error:
            raise InputError(f"sample {trace.id} failed: {trace.error}")
    for request, other in zip(own, others, strict=True):
        yield wanted.samples[request.id], wanted.found[request.id], wanted.found[other.id]


def scores(values: NDArray[np.float64], needed: NDArray[np.int64]) -> dict[str, float]:
    """How a map [N] ranks the needed tokens.

    Returns:
        rank: of the best needed token, 1 = highest, ties shared; hit: it is the highest; ninth, third: share of needed
        tokens among the highest ninth and third; auc: probability that a needed token is above another; chance: of
        `hit` for a map that knows nothing. Tokens without a value are left out.
    """
    known = np.flatnonzero(~np.isnan(values))
    rank = np.full(len(values), np.nan)
    rank[known] = rankdata(-values[known])
    mine, n = rank[np.intersect1d(needed, known)], len(known)
    rest = n - len(mine)
    below = rest - (mine - rankdata(mine))  # others that are ranked behind each needed token
    return {
        "rank": mine.min(), "hit": float(mine.min() == 1),
        "ninth": np.mean(mine <= round(n / 9)), "third": np.mean(mine <= round(n / 3)),
        "auc": below.mean() / rest if rest else np.nan, "chance": len(mine) / n, "tokens": n,
    }  # fmt: skip


def _change(values: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    a, b = values[~np.isnan(values)], other[~np.isnan(values)]
    return 0.0 if np.array_equal(a, b) else float(1 - np.corrcoef(a, b)[0, 1])


def _profile(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """[BINS] mean over parts of the sequence, as a multiple of the mean; nan for a part without a token."""
    bins = np.arange(len(values)) * BINS // len(values)
    known = ~np.isnan(values)
    total = np.bincount(bins[known], values[known], BINS)
    with np.errstate(invalid="ignore"):
        mean: NDArray[np.float64] = total / np.bincount(bins[known], minlength=BINS) / values[known].mean()
    return mean


def _drawn(
    about: dict[str, Any], item: Item, layout: VisualLayout, maps: Maps, needed: NDArray[np.int64]
) -> Iterator[dict[str, Any]]:
    """Rows of one sample that is drawn: the picture that its answer needs, and the maps over it."""
    shown = item.needed[0].picture
    picture = [part for part in item.content if not isinstance(part, str)][shown]
    small, file = open_picture(picture).copy(), io.BytesIO()
    small.thumbnail((SIDE, SIDE))
    small.save(file, "PNG", optimize=True)
    question = " ".join(part for part in item.content if isinstance(part, str))
    yield {"part": "picture", **about, "reason": question, "png": base64.b64encode(file.getvalue()).decode()}
    boxes = layout.boxes.numpy()
    for kind, values in maps.items():
        for token in np.flatnonzero((layout.picture.numpy() == shown) & ~np.isnan(values) & ~np.isnan(boxes[:, 0])):
            box = dict(zip(("top", "left", "bottom", "right"), boxes[token].tolist(), strict=True))
            yield {"part": "map", **about, "kind": kind, "token": int(token), "value": values[token], **box,
                   "needed": token in needed}  # fmt: skip
