"""Down-sampling: pictures shrunk before the tower, against pictures that come small."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from harness.engine import Decoding, Engine, Request, Trace
from harness.models import Model
from pruners import NoPruning, Pipeline, Pruner
from pruners.base import PrunerError
from pruners.fastv import FastV
from pruners.simple import Downsample, Pool, pooled_grid
from tests.conftest import prompts

SHORT = Decoding(max_new_tokens=12)


def run(model: Model, requests: list[Request], pruner: Pruner) -> dict[str, Trace]:
    traces = {trace.id: trace for trace in Engine(model).run(requests, pruner, SHORT)}
    assert not any(trace.error for trace in traces.values())
    return traces


def shrunk(model: Any, request: Request, keep: float) -> tuple[Request, int, int]:
    """The request with small pictures, and the visual tokens of the whole and of the small ones."""
    side, content, counts = model.merge * model.config.vision_config.patch_size, [], []
    for part in request.content:
        if isinstance(part, Image.Image):
            rows, columns = model._tokens(model._pixels(part))
            h, w = pooled_grid(rows, columns, max(1, round(keep * rows * columns)))
            part = part.resize((w * side, h * side), Image.Resampling.BICUBIC)
            counts.append((rows * columns, h * w))
        content.append(part)
    whole, small = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
    return Request(request.id, tuple(content)), whole, small


@pytest.mark.parametrize("keep", [1 / 2, 1 / 3, 1 / 9])
def test_equals_pictures_that_come_small(trained: Any, keep: float) -> None:
    """Replies, tokens of every layer and costs are those of small pictures; shares are told of the whole ones."""
    requests = prompts(8)
    made = [shrunk(trained, request, keep) for request in requests]
    got, limits = run(trained, requests, Downsample(keep=keep)), dict(trained.image_processor.size)
    trained.image_processor.size = {**limits, "shortest_edge": 1}
    try:
        want = run(trained, [small for small, *_ in made], NoPruning())
    finally:
        trained.image_processor.size = limits
    for request, n, k in made:
        ours, theirs = got[request.id], want[request.id]
        assert ours.token_ids == theirs.token_ids and ours.flops == theirs.flops
        assert ours.visual_per_layer == theirs.visual_per_layer == [k] * trained.dims.depth
        assert (ours.visual_tokens, theirs.visual_tokens) == (n, k) and ours.text_tokens == theirs.text_tokens
        if n:
            assert k < n and ours.ret_prefill == pytest.approx(k / n) and ours.kv == pytest.approx(k / n)


def test_a_budget_of_everything_changes_nothing(trained: Model) -> None:
    requests = prompts(4)
    one, other = run(trained, requests, NoPruning()), run(trained, requests, Downsample(keep=1.0))
    assert {i: t.token_ids for i, t in one.items()} == {i: t.token_ids for i, t in other.items()}
    assert [trace.ret_prefill for trace in other.values()].count(1.0) == 3  # and one without a picture


def test_other_methods_go_on_from_the_small_picture(trained: Model) -> None:
    pruner = Pipeline(methods=(Downsample(keep=0.5), FastV(keep=0.5)))
    for trace in run(trained, [prompts(6)[i] for i in (1, 5)], pruner).values():
        first, last = trace.visual_per_layer[0], trace.visual_per_layer[-1]
        assert first <= trace.visual_tokens // 2 and last == max(1, round(first / 2))
        assert trace.ret_prefill == pytest.approx(sum(trace.visual_per_layer) / (4 * trace.visual_tokens))
    with pytest.raises(PrunerError, match="order in which they act"):
        Pipeline(methods=(Pool(), Downsample())).check(trained.info)


@pytest.mark.parametrize("model", ["internvl", "llava"], indirect=True)
def test_towers_of_one_size_are_refused(model: Model) -> None:
    with pytest.raises(PrunerError, match="squares of one size"):
        list(Engine(model).run([], Downsample(), SHORT))
