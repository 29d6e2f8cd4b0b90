"""Step methods on views made by hand, against plain loops; refusals of what cannot work."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from harness.models.known import LLAVA, QWEN
from pruners import (
    DSTP,
    VTW,
    Blind,
    DivPrune,
    Downsample,
    FasterVLM,
    FastV,
    ModelInfo,
    NoPruning,
    Pipeline,
    PruMerge,
    Pruner,
    PrunerError,
    Random,
    SparseVLM,
    V2Drop,
    VisionPulse,
    VisionZip,
    VisPruner,
    VScan,
)
from pruners.views import StepView

INFO = ModelInfo(name="m", depth=36, tower_depth=2, axes=3)
HEADS, BEFORE, N, AFTER = 3, 7, 50, 9  # keys of a slot: text, visual, text


def view(seed: int = 0, slots: int = 2) -> tuple[StepView, Tensor]:
    """Slots with N visual keys (the last with 30) among text, and all logits [S, H, keys]."""
    torch.manual_seed(seed)
    logits = torch.randn(slots, HEADS, BEFORE + N + AFTER) * 2
    logits[-1, :, BEFORE + 30 : BEFORE + N] = -torch.inf  # a smaller picture
    visual = logits[..., BEFORE : BEFORE + N]
    text = torch.cat([logits[..., :BEFORE], logits[..., BEFORE + N :]], dim=-1)
    valid = ~visual[:, 0].isinf()
    return StepView(
        layer=17, logits=visual, valid=valid, kept=valid, visible=valid,
        place=torch.where(valid, BEFORE + torch.arange(N), 0), length=torch.full((slots,), BEFORE + N + AFTER),
        step=torch.zeros(slots, dtype=torch.long), state={},
        longest=BEFORE + N + AFTER, rest=lambda temperature: (text / temperature).logsumexp(-1),
        reserve=lambda: visual,
    ), logits  # fmt: skip


def softmax(values: list[float]) -> list[float]:
    top = max(values)
    weights = [math.exp(v - top) for v in values]
    return [w / sum(weights) for w in weights]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("method", [VisionPulse(), VisionPulse(tau=0.4, low=0.05, high=0.1), VisionPulse(high=0.9)])
def test_visionpulse_by_hand(method: VisionPulse, seed: int) -> None:
    """Mass of the strongest head at temperature tau, floor, head-mean of the logits; later layers and the anchor."""
    seen, logits = view(seed)
    decision = method.at_step(seen)
    assert (decision.from_layer, decision.when) == (17, "now")
    for slot, n in enumerate((N, 30)):
        rows = logits[slot].tolist()
        mass = max(sum(softmax([x / method.tau for x in row])[BEFORE : BEFORE + n]) for row in rows)
        k = max(1, math.floor(min(max(mass, method.low), method.high) * n))
        mean = [sum(row[BEFORE + i] for row in rows) / HEADS for i in range(n)]
        best = sorted(range(n), key=lambda i: -mean[i])[:k]
        assert torch.nonzero(decision.mask[slot]).flatten().tolist() == sorted(best)


@pytest.mark.parametrize("seed", range(5))
def test_blocks_by_hand(seed: int) -> None:
    """Blocks of 8 keys from the start of the cache; those with text in them always stay; the anchor reads all."""
    size, share = 8, 0.3
    seen, logits = view(seed, slots=1)
    logits[:], seen.logits[:] = logits.nan_to_num(neginf=0.0), seen.logits.nan_to_num(neginf=0.0)
    seen.valid[:] = True
    seen.place[:] = BEFORE + torch.arange(N)
    decision = VisionPulse(low=share, high=share, block=size).at_step(seen)
    assert decision.from_layer == 18
    weights = [softmax(row) for row in logits[0].tolist()]
    blocks = [range(b, b + size) for b in range(0, BEFORE + N + AFTER, size)]
    visual = [b for b in blocks if b[0] >= BEFORE and b[-1] < BEFORE + N]
    score = {b: sum(sum(row[i] for i in b) for row in weights) / HEADS for b in visual}
    dropped = sorted(visual, key=lambda b: -score[b])[math.ceil(share * N / size) :]
    hidden = {i - BEFORE for b in dropped for i in b}
    assert hidden and torch.nonzero(~decision.mask[0]).flatten().tolist() == sorted(hidden)


def test_other_budgets() -> None:
    """fixed: always the cap; random: between the bounds, by step; top_p: the fewest keys with that share."""
    seen, logits = view()
    assert VisionPulse(budget="fixed", high=0.2).at_step(seen).mask.sum(1).tolist() == [10, 6]
    method = VisionPulse(budget="random", low=0.1, high=0.9)
    draws = torch.linspace(0, 1, 4096).expand(2, -1)
    counts = []
    for step in (0, 2048, 4095):
        seen = replace(seen, state={"draws": draws})
        seen = replace(seen, step=torch.full((2,), step))
        counts.append(method.at_step(seen).mask.sum(1).tolist())
    assert counts == [[5, 3], [25, 15], [45, 27]]
    weights = [softmax(row[BEFORE : BEFORE + N]) for row in logits[0].tolist()]
    mean = sorted((sum(row[i] for row in weights) / HEADS for i in range(N)), reverse=True)
    fewest = next(k for k in range(N + 1) if sum(mean[:k]) >= 0.6)
    assert VisionPulse(budget="top_p", p=0.6, low=0, high=1).at_step(seen).mask.sum(1)[0] == fewest


def test_a_slot_without_picture_is_ordinary_input() -> None:
    seen, _ = view()
    seen.logits[1], seen.valid[1] = -torch.inf, False
    for method in (VisionPulse(), VisionPulse(budget="top_p"), VisionPulse(block=8), VisionPulse(budget="fixed")):
        assert method.at_step(seen).mask[0].any()
    zero = torch.zeros(2)
    seen = replace(seen, state={"anchor": torch.zeros(2, N), "left": zero, "sum": zero, "count": zero})
    seen = replace(seen, kept=seen.valid)
    decision = DSTP(base=FastV()).at_step(seen)
    assert decision.triggers is not None and decision.triggers.tolist() == [True, False]


@pytest.mark.parametrize(
    "bad",
    [{"low": 0.3, "high": 0.2}, {"high": 1.5}, {"low": -1.0}, {"tau": 0.0}, {"p": 0.0}, {"block": 0}],
)
def test_visionpulse_refuses(bad: dict[str, float]) -> None:
    with pytest.raises(PrunerError):
        VisionPulse(**bad)  # type: ignore[arg-type]
    with pytest.raises(PrunerError, match="99"):
        VisionPulse(anchor=99).check(INFO)


def test_dstp_refuses_what_it_cannot_bring_back() -> None:
    for base in (NoPruning(), Blind(), VTW()):
        with pytest.raises(PrunerError, match="needs a base that keeps some"):
            DSTP(base=base).check(INFO)
    with pytest.raises(PrunerError, match="VisionPulse drops at the step moment"):
        DSTP(base=Pipeline(methods=(FastV(), VisionPulse()))).check(INFO)
    with pytest.raises(PrunerError, match="at the step moment"):
        DSTP(base=DSTP(base=FastV())).check(INFO)
    with pytest.raises(PrunerError, match="Random renumbers"):
        DSTP(base=Random(positions="renumber")).check(INFO)
    for bad in ({"L": 0}, {"rate": 2.0}):
        with pytest.raises(PrunerError):
            DSTP(base=FastV(), **bad)  # type: ignore[arg-type]
    twice = DSTP(base=Pipeline(methods=(Random(), FastV())), recall="dense")
    with pytest.raises(PrunerError, match="drops tokens once"):
        twice.check(INFO)
    with pytest.raises(PrunerError, match="drops tokens once"):
        DSTP(base=VScan(positions="keep"), recall="dense").check(LLAVA)  # before the language model, and inside it
    with pytest.raises(PrunerError, match="layer 40"):
        DSTP(base=FastV(), layer=40).check(INFO)
    with pytest.raises(PrunerError, match="Downsample drops at the picture moment"):
        DSTP(base=Downsample()).check(QWEN)
    made = SparseVLM(positions="keep")
    with pytest.raises(PrunerError, match=r"makes tokens up to layer 16, .* in layer 3 .*addon\.layer=16"):
        DSTP(base=made).check(LLAVA)
    DSTP(base=made, layer=16).check(LLAVA)


@pytest.mark.parametrize("base", [Random(), DivPrune(), VisionZip()], ids=lambda base: type(base).__name__)
def test_dstp_runs_its_base_under_the_ids_of_the_full_prompt(base: Pruner) -> None:
    """Also where the method alone would renumber, and inside a pipeline."""
    llava = ModelInfo(name="llava", depth=32, tower_depth=24, has_cls=True)
    assert base.resolved(llava).positions == "renumber"  # type: ignore[attr-defined]
    for add_on in (DSTP(base=base), DSTP(base=Pipeline(methods=(base, FastV())))):
        assert add_on.resolved(llava).stages()[0].positions == "keep"  # type: ignore[attr-defined]
    assert DSTP(base=base).step_layer(36) == 2 and DSTP(base=FastV(layer=5)).step_layer(36) == 5


def test_an_empty_choice_is_kept() -> None:
    """A base that leaves nothing of a picture: nothing to compare with, so nothing triggers."""
    seen, _ = view()
    seen = replace(seen, kept=torch.zeros_like(seen.valid))
    zero = torch.zeros(2)
    seen = replace(seen, state={"anchor": torch.zeros(2, N), "left": zero, "sum": zero, "count": zero})
    decision = DSTP(base=FastV()).at_step(seen)
    assert decision.triggers is not None and not decision.triggers.any()


@pytest.mark.parametrize(
    ("early", "late", "model"),
    [
        (VisionZip(), FasterVLM(), LLAVA),
        (PruMerge(), VisPruner(), LLAVA),
        (SparseVLM(), V2Drop(), LLAVA),
        (SparseVLM(), FastV(layer=3), LLAVA),
    ],
    ids=lambda x: getattr(x, "name", type(x).__name__),
)
def test_pipelines_refuse_signals_that_made_tokens_lack(early: Pruner, late: Pruner, model: ModelInfo) -> None:
    with pytest.raises(PrunerError, match=r"makes tokens that .* does not have"):
        Pipeline(methods=(early, late)).check(model)


@pytest.mark.parametrize(
    ("early", "late", "model"),
    [
        (VisionZip(), FastV(), LLAVA),
        (VisionZip(), FasterVLM(), QWEN),
        (FasterVLM(), VisionZip(), LLAVA),
        (SparseVLM(), FastV(layer=20), LLAVA),
    ],
    ids=lambda x: getattr(x, "name", type(x).__name__),
)
def test_pipelines_whose_signals_come_later_act(early: Pruner, late: Pruner, model: ModelInfo) -> None:
    Pipeline(methods=(early, late)).check(model)


@pytest.mark.parametrize("pruner", [VisPruner(layer=-1), PruMerge(features=-1)], ids=lambda p: type(p).__name__)
def test_layers_that_never_run_are_refused(pruner: Pruner) -> None:
    with pytest.raises(PrunerError, match="stops behind layer 22"):
        pruner.check(LLAVA)
    FasterVLM(layer=-1).check(LLAVA)  # attention there depends on what enters it alone
