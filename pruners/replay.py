"""Replay: apply the kept sets that an earlier run wrote (`record=kept`), or that somebody else computed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from pruners.base import Pruner, PrunerError
from pruners.selection import Selection, Weights
from pruners.views import View


@dataclass(frozen=True, kw_only=True)
class Replay(Pruner):
    """Kept sets from a file with one JSON object per line: `{"id": sample, "kept": [entry, ...]}`.

    An entry has `layer` (null: before the language model), `source` (indices into the prompt's visual tokens current at
    that moment), and optionally `weights` (rows, cols, values) and `positions` ("auto", "keep", "renumber" or ids).
    Samples that the file does not name are left alone.
    """

    scope: ClassVar = "prompt"
    newlines: ClassVar = "see"
    path: str
    _sets: dict[str, list[dict[str, Any]]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        try:
            lines = Path(self.path).read_text().splitlines()
            self._sets.update({entry["id"]: entry["kept"] for entry in map(json.loads, lines)})
        except OSError as error:
            raise PrunerError(f"cannot read kept sets: {error}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise PrunerError(f"{self.path} does not hold kept sets ({error})") from None
        if any(entry.get("inexact") for kept in self._sets.values() for entry in kept):
            raise PrunerError(
                f"{self.path} holds what kept sets cannot express: merges before the projector, made ids, or what "
                "leaves inside the tower or from the cache"
            )

    @cached_property
    def positions(self) -> Literal["keep", "renumber"]:
        """What the recorded methods did to position ids."""
        found = [entry.get("positions", "keep") for kept in self._sets.values() for entry in kept]
        return "keep" if all(given in ("keep", "auto") for given in found) else "renumber"

    @cached_property
    def _layers(self) -> tuple[int, ...]:
        return tuple(sorted({e["layer"] for kept in self._sets.values() for e in kept if e["layer"] is not None}))

    def layers(self, depth: int) -> tuple[int, ...]:
        if self._layers and self._layers[-1] >= depth:
            raise PrunerError(f"{self.path} prunes at layer {self._layers[-1]}, the model has {depth} layers")
        return self._layers

    def _selection(self, view: View) -> Selection | None:
        for entry in self._sets.get(view.sample.id, []):
            if entry["layer"] == view.layer:
                device = view.index.device
                positions: Any = entry.get("positions", "keep")
                if not isinstance(positions, str):
                    positions = torch.tensor(positions, device=device)
                weights = [torch.tensor(x, device=device) for x in entry.get("weights") or ()]
                return Selection(
                    torch.tensor(entry["source"], dtype=torch.long, device=device),
                    Weights(*weights) if weights else None,
                    positions,
                )
        return None

    at_embed = _selection
    at_layer = _selection
