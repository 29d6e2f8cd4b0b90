"""LLaVA-NeXT: where the stock model puts every patch, what the stock processor makes of pictures, the stock replies."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor

from harness.engine import Decoding, Engine, Request
from harness.models import BadSample, ModelUnavailable, load_model
from harness.models.base import PADDING
from harness.models.llava import VICUNA
from pruners import NoPruning
from pruners.layout import NEWLINE, PATCH, THUMBNAIL, Box
from tests.models.folders import SQUARE, write
from tests.tiny import Prompted, llava_next, shake, stock, text_sizes, tower_sizes

SIDE = SQUARE // 4
QUESTION = "How many?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write("llava_next", tmp_path_factory.mktemp("llava_next"))


@cache
def loaded(folder: Path, options: tuple[tuple[str, Any], ...]) -> Any:
    model = load_model(str(folder), family="llava_next", weights="random", **dict(options))
    shake(model.net, 0.15)
    return model


def load(folder: Path, **options: Any) -> Any:
    return loaded(folder, tuple(options.items()))


def noise(width: int, height: int) -> Image.Image:
    return Image.effect_noise((width, height), 90).convert("RGB")


def packed(config: Any, height: int, width: int, crops: int) -> list[int]:
    """What the stock model makes of patches that are numbered crop by crop; -1 for newlines."""
    side = config.vision_config.image_size // config.vision_config.patch_size
    numbers = torch.arange(float(crops * side**2)).view(crops, side**2, 1)
    (out,), _ = LlavaNextModel.pack_image_features(
        SimpleNamespace(config=config), [numbers], [(height, width)], "default", torch.tensor([-1.0])
    )
    return [int(x) for x in out.flatten()]


SIZES = [(672, 672), (1, 1), (1, 200), (200, 1), (336, 1008), (337, 672), (1008, 335), (641, 481), (14, 13), (3000, 29)]


@pytest.mark.parametrize("shapes", [None, [[672, 672]]])
def test_patches_stand_where_the_stock_model_has_them(shapes: list[list[int]] | None) -> None:
    """At the published sizes of crops and shapes of grids; ours against its packing and the stock processor's count."""
    config = llava_next(text_sizes(32, 2, 2, 2, 16, 48, 50), tower_sizes(3, 16, 2, 32, 14, 336))
    config.image_grid_pinpoints = shapes or config.image_grid_pinpoints
    model: Any = Prompted(config, "cpu", [])
    processor: Any = LlavaNextProcessor.__new__(LlavaNextProcessor)
    processor.patch_size, processor.num_additional_image_tokens = 14, 0
    processor.image_processor = SimpleNamespace(image_grid_pinpoints=config.image_grid_pinpoints)
    rng = random.Random(0)
    for height, width in SIZES + [(rng.randint(1, most), rng.randint(1, most)) for most in (30, 700, 4000) * 60]:
        crops, place = model.arrange(height, width)
        patches = (len(crops) - 1) * 24**2
        order = place.argsort()[: int((place < PADDING).sum())].tolist()
        want = packed(config, height, width, len(crops) - 1)
        assert [i if i < patches else -1 for i in order] == want, (height, width)
        assert len(want) == processor._get_number_of_features(height, width, 336, 336)
        assert len(place) == patches + crops[-1].rows and place[order].tolist() == list(range(len(want)))


@pytest.mark.parametrize(("width", "height"), [(40, 40), (90, 31), (31, 90), (24, 20), (130, 100), (200, 1)])
@pytest.mark.parametrize("assembly", ["stock", "grid"])
def test_layout(folder: Path, width: int, height: int, assembly: str) -> None:
    """Overview, then row by row over all tiles; what a token's place says it shows is where it stands."""
    model = load(folder, assembly=assembly)
    prompt = model.prepare(Request("r", (noise(width, height), QUESTION)))
    (picture,), layout = prompt.pictures, prompt.layout
    rows, columns = picture.grid
    assert picture.pixels.shape == (1 + rows * columns, 3, SQUARE, SQUARE)
    assert layout.crop[: SIDE**2].unique().tolist() == [0] and layout.area[0, 0] == (0, 0, 1, 1)
    assert layout.kind[: SIDE**2].unique().tolist() == [THUMBNAIL] and THUMBNAIL not in layout.kind[SIDE**2 :]
    patch, line = layout.kind == PATCH, layout.kind == NEWLINE
    assert line.any() == (assembly == "stock" and height > 1) and set(layout.grid.values()) <= {(SIDE, SIDE)}
    down = (layout.crop - 1) // columns * SIDE + layout.row
    across = (layout.crop - 1) % columns * SIDE + layout.column
    places = list(zip(down[patch].tolist(), across[patch].tolist(), strict=True))
    assert places == sorted(places) and len(set(places)) == len(places)
    if assembly == "grid":
        assert len(places) == rows * columns * SIDE**2
    if line.any():
        last = torch.nonzero(line).flatten()
        assert layout.crop[line].unique().tolist() == [1 + rows * columns] and layout.column[line].unique() == -1
        assert (down[last - 1].diff() == 1).all() and layout.row[line].tolist() == list(range(len(last)))
        assert last[-1] == len(layout) - 1


@pytest.mark.parametrize(("width", "height"), [(300, 200), (200, 310), (90, 31), (31, 90), (150, 150)])
@pytest.mark.parametrize("assembly", ["stock", "grid"])
def test_boxes_find_what_shows_them(folder: Path, width: int, height: int, assembly: str) -> None:
    """A white box on black: the tokens that the layout finds for it are those whose patches are bright."""
    top, left, bottom, right = 0.4, 0.3, 0.7, 0.8
    image = Image.new("RGB", (width, height))
    image.paste(
        (255, 255, 255), (round(left * width), round(top * height), round(right * width), round(bottom * height))
    )
    prompt = load(folder, assembly=assembly).prepare(Request("r", (image, QUESTION)))
    layout, pixels = prompt.layout, prompt.pictures[0].pixels
    patches = pixels.mean(1).unflatten(1, (SIDE, 4)).unflatten(3, (SIDE, 4)).mean((2, 4))
    seen = torch.where(
        layout.kind == PATCH, patches[layout.crop % len(pixels), layout.row % SIDE, layout.column], torch.nan
    )
    area = layout.area[0, 1]
    half_up, half_across = 0.6 * (area[2] - area[0]) / SIDE, 0.6 * (area[3] - area[1]) / SIDE
    wider = Box(0, top - half_up, left - half_across, bottom + half_up, right + half_across)
    narrower = Box(0, top + half_up, left + half_across, bottom - half_up, right - half_across)
    wide, narrow = layout.shows([wider, narrower])
    bright, dark = seen > 1.5, seen < -1.3
    assert not (bright & ~wide).any() and bright.any()
    assert not dark[narrow].any() and narrow.any()


@pytest.mark.parametrize("sizes", [[], [(40, 40)], [(90, 31), (12, 15)], [(31, 90), (200, 1)]], ids=str)
def test_equals_the_stock_model(folder: Path, sizes: list[tuple[int, int]]) -> None:
    """Ids and pixels of the stock processor, under the published template; then the stock model's own replies."""

    class Pictures(LlavaNextProcessor):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return ["image_processor", "tokenizer"]

    model, images = load(folder, system="none"), [noise(*size) for size in sizes]
    parts = [*({"type": "image"} for _ in images), {"type": "text", "text": QUESTION}]
    text = model.tokenizer.apply_chat_template(
        [{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True
    )
    processor = Pictures(
        model.image_processor, model.tokenizer, patch_size=4, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip
    want = processor(images=images or None, text=text, return_tensors="pt")
    request = Request("r", (*images, QUESTION))
    got = model.prepare(request)
    assert got.ids.tolist() == want["input_ids"][0].tolist() and len(got.layout) == len(got.visual)
    for picture, pixels in zip(got.pictures, want.get("pixel_values", []), strict=True):
        assert torch.equal(picture.pixels, pixels[: len(picture.pixels)])
    theirs = stock(model).generate(**want, do_sample=False, max_new_tokens=24, pad_token_id=0)
    (trace,) = Engine(model).run([request], NoPruning(), Decoding(max_new_tokens=24))
    assert trace.error is None and trace.visual_tokens == len(got.visual)
    stop = [t for t in theirs[0, len(got.ids) :].tolist() if t not in model.stop_ids]
    assert [t for t in trace.token_ids if t not in model.stop_ids] == stop


def test_prompt_of_its_own_scripts(folder: Path) -> None:
    model = load(folder)
    prompt = model.prepare(Request("r", ("First:", noise(20, 30), QUESTION)))
    once = [i for i, kind in enumerate(prompt.ids.tolist()) if kind != model.config.image_token_id or i < 1]
    said = model.tokenizer.decode(prompt.ids[once], skip_special_tokens=False)
    assert said == f"<s>{VICUNA} USER: First:\nHow many? ASSISTANT:"


def test_one_shape_for_all(folder: Path) -> None:
    """Four tiles whatever the picture, as some official codes force it."""
    model = load(folder, assembly="grid", pinpoints=2 * SQUARE)
    for size in ((90, 31), (20, 20), (31, 90)):
        prompt = model.prepare(Request("r", (noise(*size), QUESTION)))
        assert prompt.pictures[0].grid == (2, 2) and len(prompt.layout) == 5 * SIDE**2


@pytest.mark.parametrize("options", [{"assembly": "flat"}, {"pinpoints": 2 * SQUARE + 1}, {"pinpoints": 0}], ids=str)
def test_options(folder: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ModelUnavailable, match=r"assembly= is stock or grid, pinpoints= a multiple of 24"):
        load(folder, **options)


def test_what_cannot_be_asked(folder: Path) -> None:
    with pytest.raises(BadSample, match="aspect ratio"):
        load(folder).prepare(Request("r", (Image.new("RGB", (4000, 1)), QUESTION)))
    with pytest.raises(BadSample, match="1 image placeholder"):
        load(folder).prepare(Request("r", (noise(16, 16), "what is <image>?")))


def test_features_of_another_shape_are_not_shared(folder: Path) -> None:
    """A black picture looks the same in the tower as a narrower one, whose padding is black."""
    model, sizes = load(folder), ((48, 48), (48, 40))
    one, other = (model.prepare(Request("r", (Image.new("RGB", size), QUESTION))).pictures[0] for size in sizes)
    assert torch.equal(one.pixels, other.pixels) and one.key != other.key
