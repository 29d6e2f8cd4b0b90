"""A sweep makes each prompt once, and makes it again where a picture, a text or a method's view of it is another."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from harness.engine import Engine, Request
from harness.models import Model, load_model
from harness.models.base import Prompt
from pruners import Downsample, FastV, NoPruning, Pruner, Random, ToMe, VisionZip
from tests.conftest import prompts
from tests.engine.test_spill import NEW, untimed


class Made:
    """Counts the prompts that a model makes, and the pictures that it opens for them."""

    def __init__(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ids: list[str] = []
        for name in ("prepare", "prepare_shrunk"):
            monkeypatch.setattr(model, name, self.counted(getattr(model, name)))

    def counted(self, make: Any) -> Any:
        def made(request: Request, *rest: Any) -> Prompt:
            self.ids.append(request.id)
            prompt: Prompt = make(request, *rest)
            return prompt

        return made

    def taken(self) -> list[str]:
        taken, self.ids = self.ids, []
        return taken


def ids(requests: Iterable[Request]) -> list[str]:
    return [request.id for request in requests]


@pytest.fixture
def shipped() -> Model:
    """A model of its own, which tests may patch."""
    return load_model("builtin:qwen3_vl", family="qwen3_vl", weights="random")


def test_a_sweep_makes_each_prompt_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal traces with and without; methods inside the tower, and those whose signals are new, need pixels again."""
    requests, made = prompts(8), Made(model, monkeypatch)
    engine = Engine(model)
    with_pictures = [r.id for r in requests if any(not isinstance(part, str) for part in r.content)]
    sweep: list[tuple[Pruner, list[str], list[str]]] = [
        (NoPruning(), ids(requests), []), (FastV(), [], []), (Random(), [], []), (VisionZip(), [], with_pictures),
        (VisionZip(keep=0.5), [], []), (ToMe(keep=0.4), ids(requests), []), (NoPruning(), [], []),
    ]  # fmt: skip
    for pruner, anew, again in sweep:
        got = untimed([*engine.run(requests, pruner, NEW)])
        assert made.taken() == anew + again, pruner
        assert got == untimed([*Engine(model, feature_cache_mb=0).run(requests, pruner, NEW)])
        assert made.taken() == ids(requests)


def test_pixels_are_made_again_when_features_have_left(shipped: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    requests, made, engine = prompts(8), Made(shipped, monkeypatch), Engine(shipped)
    want = untimed([*engine.run(requests, NoPruning(), NEW)])
    assert all(p.pixels.is_meta for prompt in engine.prompts.entries.values() for p in prompt.pictures)
    assert not any(prompt.again for prompt in engine.prompts.entries.values())  # which would hold requests
    engine.features.limit = 0
    engine.features.entries.clear()
    made.taken()
    assert untimed([*engine.run(requests, NoPruning(), NEW)]) == want
    assert made.taken() == [r.id for r in requests if any(not isinstance(part, str) for part in r.content)]


def picture(folder: Path, colour: str, kind: str) -> Path | bytes | Image.Image:
    image, path = Image.new("RGB", (64, 64), colour), folder / "picture.png"
    image.save(path)
    return {"file": path, "bytes": path.read_bytes(), "image": image}[kind]


@pytest.mark.parametrize("kind", ["file", "bytes", "image"])
def test_a_changed_picture_is_read_again(
    shipped: Model, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also under the same name, with the same size on disk."""
    engine, made = Engine(shipped), Made(shipped, monkeypatch)
    for i, colour in enumerate(("red", "lime", "red")):
        request = Request("s", (picture(tmp_path, colour, kind), "how many pips at c3?"))
        if kind == "file":
            os.utime(tmp_path / "picture.png", (i, i))
        for again in (False, True):
            traces = untimed([*engine.run([request], NoPruning(), NEW)])
            assert bool(made.taken()) == (not again and (kind == "file" or i < 2))
        assert traces == untimed([*Engine(shipped).run([request], NoPruning(), NEW)])
        made.taken()
    assert len(engine.features.entries) == 2


def test_what_else_makes_another_prompt(shipped: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its text, its system text, the order of its parts, and how far a method shrinks its pictures."""
    engine, made = Engine(shipped), Made(shipped, monkeypatch)
    image = prompts(4)[1].content[0]
    base = Request("s", (image, "how many pips at c3?"))
    others = [
        base, replace(base, content=(image, "how many pips at c4?")), replace(base, content=base.content[::-1]),
        replace(base, system=("be brief",)), replace(base, content=(image, image, "how many pips at c3?")),
    ]  # fmt: skip
    for request in others:
        for expected in (["s"], []):
            [*engine.run([request], NoPruning(), NEW)]
            assert made.taken() == expected
    for keep in (0.5, 0.25):
        for expected in (["s"], []):
            (trace,) = engine.run([base], Downsample(keep=keep), NEW)
            assert made.taken() == expected
            (alone,) = Engine(shipped, feature_cache_mb=0).run([base], Downsample(keep=keep), NEW)
            assert untimed([trace]) == untimed([alone])
            made.taken()


def test_memory_of_prompts_is_bounded(shipped: Model) -> None:
    requests, engine = prompts(24), Engine(shipped)
    [*engine.run(requests, NoPruning(), NEW)]
    whole = engine.prompts.used
    small = Engine(shipped)
    small.prompts.limit = whole // 3
    [*small.run(requests, NoPruning(), NEW)]
    assert 0 < small.prompts.used <= whole // 3 and 0 < len(small.prompts.entries) < 24
    assert len(engine.prompts.entries) == 24


def test_damaged_pictures_are_lost_alone(shipped: Model, tmp_path: Path) -> None:
    """Absent, damaged, and gone or changed between two methods."""
    engine, bad = Engine(shipped), tmp_path / "bad.png"
    good = picture(tmp_path, "red", "file")
    bad.write_bytes(b"no picture")
    requests = [
        Request(str(i), (p, "how many?")) for i, p in enumerate([good, bad, tmp_path / "absent.png", b"x", good])
    ]
    for _ in range(2):
        traces = {t.id: t.error for t in engine.run(requests, NoPruning(), NEW)}
        assert [i for i in sorted(traces) if traces[i]] == ["1", "2", "3"]
        assert all("BadSample" in traces[i] or "Error" in traces[i] for i in "123")  # type: ignore[operator]
    Path(str(good)).unlink()
    assert all(t.error for t in engine.run(requests, FastV(), NEW))


def test_a_picture_changed_under_way_fails_its_sample(shipped: Model, tmp_path: Path) -> None:
    """It is as it was when its prompt is looked up, and another when its pixels are made again."""
    engine, path = Engine(shipped, ahead=False), tmp_path / "picture.png"
    requests = [Request("s", (path, "how many?")), Request("t", (picture(tmp_path, "red", "image"), "how many?"))]
    assert [t.error for t in engine.run(requests, NoPruning(), NEW)] == [None, None]
    engine.features.entries.clear()
    before, get = path.stat(), engine.prompts.get

    def late(*arguments: Any) -> Prompt:
        prompt = get(*arguments)
        picture(tmp_path, "lime", "file")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 5))
        return prompt

    engine.prompts.get = late  # type: ignore[method-assign]
    errors = {t.id: t.error for t in engine.run(requests, NoPruning(), NEW)}
    assert errors["t"] is None and "changed" in (errors["s"] or "")


def test_a_prompt_says_how_to_make_it_again(shipped: Model) -> None:
    """The same, pixels and all."""
    engine, request = Engine(shipped), prompts(4)[3]
    first = engine.prompts.get(request, None, shipped.prepare)
    light = engine.prompts.get(request, None, shipped.prepare)
    assert first.again is None and light.again is not None
    whole = light.again()
    for a, b, c in zip(first.pictures, whole.pictures, light.pictures, strict=True):
        assert torch.equal(a.pixels, b.pixels) and a.key == b.key == c.key
        assert c.pixels.is_meta and c.pixels.shape == a.pixels.shape
    assert torch.equal(light.ids, first.ids) and torch.equal(light.positions, first.positions)
