"""What can go wrong when tokens are repeated, made, or brought back: each case once went wrong."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from harness.engine import Decoding, Engine, Request
from harness.models.base import PictureInput, Prompt
from pruners import (
    DSTP,
    Box,
    DivPrune,
    FastV,
    Pipeline,
    Pruner,
    PrunerError,
    Random,
    Replay,
    View,
    VisionPulse,
    VisionZip,
)
from pruners.signals import Attention
from pruners.views import State, StepView, Visible
from tests.engine.methods import METHODS
from tests.tiny import BY_FAMILY, CONFIGS, Prompted

GRIDS = {"qwen3_vl": [(8, 12), (12, 6)], "internvl": [(2, 1), (1, 1)], "llava": [(1, 1), (1, 1)]}
LONG = Decoding(max_new_tokens=24, ignore_eos=True)


def build(family: str) -> Prompted:
    return Prompted(CONFIGS[BY_FAMILY[family]], "cpu", GRIDS[family], noise=0.2)


class Flat(Prompted):
    """Pictures of one colour: tiles and thumbnail have the same tokens."""

    def prepare(self, request: Request) -> Prompt:
        self.pictures = tuple(PictureInput.of(torch.full_like(p.pixels, 0.5), p.grid) for p in self.pictures)
        return super().prepare(request)


@pytest.mark.parametrize(
    "pruner",
    [
        DivPrune(keep=0.5), Pipeline(methods=(DivPrune(keep=0.5), VisionPulse(high=0.5))),
        DSTP(base=DivPrune(keep=0.5), tau=2, recall="shadow"), DSTP(base=DivPrune(keep=0.5), tau=2, swap="full"),
        DSTP(base=Pipeline(methods=(DivPrune(keep=0.7), FastV())), tau=2),
    ],
    ids=str,
)  # fmt: skip
def test_a_repeated_token_is_one_more(pruner: Pruner) -> None:
    """A flat picture has fewer distinct tokens than the budget; no share of it can exceed one."""
    model = Flat(CONFIGS["internvl"], "cpu", [(2, 2)], noise=0.2)
    request = Request("s", (), needed=(Box(0, 0, 0, 0.5, 0.5), Box(0, 0.6, 0.6, 1, 1)))
    (trace,) = Engine(model).run([request], pruner, LONG)
    assert trace.error is None and trace.ret_decode is not None
    assert 0 < trace.ret_decode <= 1.5 and all(0 <= share <= 1 for _, shares in trace.evidence_runs for share in shares)


@dataclass(frozen=True, kw_only=True)
class Anchored(DSTP):
    """Keeps the view that its anchor was read from."""

    def begin(self, view: View) -> State:
        state = super().begin(view)
        assert int((state["anchor"] > 0).sum()) == len(view)  # one weight for every token that is left
        weights = view[Attention(view.layer or 0, rows="last", keys="visual", head="none")]
        assert len({tuple(column) for column in weights.T.tolist()}) == len(view)
        return state


def test_signals_tell_made_rows_apart() -> None:
    """VisionZip's class token and contextual tokens share places of the prompt with other tokens."""
    for layer in (1, 3):
        base = Pipeline(methods=(VisionZip(keep=0.5), FastV(layer=3)))
        (trace,) = Engine(build("llava")).run([Request("s", ())], Anchored(base=base, layer=layer), LONG)
        assert trace.error is None


def test_nothing_is_renumbered_under_a_recall(tmp_path: Path) -> None:
    """Not by a replayed file, not inside a pipeline, not by a method that does not say so."""
    file = tmp_path / "kept.jsonl"
    file.write_text(json.dumps({"id": "s", "kept": [{"layer": 2, "source": [0, 3], "positions": "renumber"}]}))
    with pytest.raises(PrunerError, match="Replay renumbers"):
        DSTP(base=Replay(path=str(file))).check(build("llava").info)
    model = build("llava")
    with pytest.raises(PrunerError, match="wraps the whole pipeline"):
        list(Engine(model).run([], Pipeline(methods=(Random(), DSTP(base=FastV()))), LONG))

    @dataclass(frozen=True, kw_only=True)
    class Secret(FastV):
        def at_layer(self, view: View):  # type: ignore[no-untyped-def]
            return replace(super().at_layer(view), positions="renumber")

    (trace,) = Engine(model).run([Request("s", ())], DSTP(base=Secret()), LONG)
    assert "renumbered" in (trace.error or "")


def test_an_export_says_what_some_of_its_pictures_did(tmp_path: Path) -> None:
    """One picture is within its budget and left alone, the other renumbers: the replay does so too."""
    model = Prompted(CONFIGS["internvl"], "cpu", [(2, 1), (1, 1)], noise=0.2)
    request = Request("s", ())
    (first,) = Engine(model).run([request], DivPrune(keep=None, tokens=20), LONG, record="kept")
    assert first.kept[0]["positions"] == "renumber"
    file = tmp_path / "kept.jsonl"
    file.write_text(json.dumps({"id": "s", "kept": first.kept}))
    (again,) = Engine(model).run([request], Replay(path=str(file)), LONG)
    assert again.token_ids == first.token_ids
    (zipped,) = Engine(build("llava")).run([request], VisionZip(), LONG, record="kept")
    file.write_text(json.dumps({"id": "s", "kept": zipped.kept}))
    with pytest.raises(PrunerError, match="before the projector"):
        Replay(path=str(file))


def test_one_sample_that_cannot_start_does_not_stop_the_others() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Fails(DSTP):
        def begin(self, view: View) -> State:
            if view.sample.id == "s1":
                raise RuntimeError("no anchor")
            return super().begin(view)

    requests = [Request(f"s{i}", ()) for i in range(4)]
    traces = {t.id: t for t in Engine(build("llava"), slots=2).run(requests, Fails(base=FastV(), tau=2), LONG)}
    assert [traces[f"s{i}"].error for i in range(4)] == [None, "RuntimeError: no anchor", None, None]
    assert traces["s3"].token_ids == traces["s0"].token_ids


def test_a_recall_cannot_hold_in_the_step_that_asks_for_it() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Hasty(DSTP):
        def at_step(self, view: StepView) -> Visible:
            return replace(super().at_step(view), when="now")

    with pytest.raises(PrunerError, match="from the next step on"):
        list(Engine(build("llava")).run([Request("s", ())], Hasty(base=FastV()), LONG))


def test_a_region_without_visual_tokens_is_not_readable() -> None:
    request = Request("s", (), needed=(Box(0, 0, 0, 1, 1), Box(0, 1.2, 1.2, 1.3, 1.3)))
    (trace,) = Engine(build("llava")).run([request], Pruner(), LONG)
    assert trace.evidence_runs == [(0, [1.0, 0.0])]


@pytest.mark.parametrize("name", [n for n in METHODS if "+" in n or n.startswith(("vision", "div"))])
@pytest.mark.parametrize("family", BY_FAMILY)
def test_half_precision(family: str, name: str) -> None:
    """bfloat16, as models run on a GPU: no method mixes precisions."""
    model = build(family)
    model.net.to(torch.bfloat16)
    model.dtype = torch.bfloat16
    (trace,) = Engine(model).run([Request("s", ())], METHODS[name], LONG)
    assert trace.error is None and trace.new_tokens == 24
