"""Prompts and pixels of InternVL and LLaVA: as the stock processors make them, and as the published protocols ask."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from harness.engine import Request
from harness.models import BadSample, Model, ModelUnavailable, load_model, model_info
from harness.models.internvl import R1
from harness.models.llava import VICUNA
from harness.runs.backend import TorchBackend
from harness.runs.config import ModelConfig
from harness.runs.errors import InputError
from pruners.layout import PATCH, THUMBNAIL, Box
from pruners.signals import TowerAttention, TowerHidden, TowerKeys
from tests.models.folders import SQUARE, TILE, write

QUESTION = "How many?"
FACTS_R1 = """You are an AI assistant that rigorously follows this response protocol:

1. First, conduct a detailed analysis of the question. Consider different angles, potential solutions, and reason \
through the problem step-by-step. Enclose this entire thinking process within <think> and </think> tags.

2. After the thinking section, provide a clear, concise, and direct answer to the user's question. Separate the answer \
from the think section with a newline.

Ensure that the thinking process is thorough but remains focused on the query. The final answer should be standalone \
and not reference the thinking section."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: write(family, tmp_path_factory.mktemp(family)) for family in ("internvl", "llava")}


@cache
def _load(folder: Path, family: str, options: tuple[tuple[str, Any], ...]) -> Model:
    return load_model(str(folder), family=family, weights="random", **dict(options))


@pytest.fixture
def load(folders: dict[str, Path]) -> Any:
    return lambda family, **options: _load(folders[family], family, tuple(options.items()))


def noise(width: int, height: int) -> Image.Image:
    return Image.effect_noise((width, height), 90).convert("RGB")


def text(model: Model, request: Request) -> str:
    """The prompt, one placeholder per picture."""
    ids, token = model.prepare(request).ids.tolist(), model.net.config.image_token_id
    kept = [i for i, before in zip(ids, [None, *ids], strict=False) if i != token or before != token]
    return str(model.tokenizer.decode(kept, skip_special_tokens=False))


@pytest.mark.parametrize("sizes", [[], [(40, 40)], [(90, 31), (12, 15)], [(31, 90), (64, 64), (20, 50)]], ids=str)
@pytest.mark.parametrize("family", ["internvl", "llava"])
def test_equals_the_stock_processor(load: Any, family: str, sizes: list[tuple[int, int]]) -> None:
    """Token ids and pixels of the published template and geometry."""
    import transformers

    model = load(family, **({"image": "crop", "system": "none"} if family == "llava" else {}))
    images = [noise(*size) for size in sizes]
    request = Request("r", (*images, QUESTION), system=("Be brief.",) if len(sizes) == 1 else ())
    parts = [*({"type": "image"} for _ in images), {"type": "text", "text": QUESTION}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": parts}]
    if request.system:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": request.system[0]}]})
    prompt = model.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    if family == "internvl":
        processor: Any = stock_internvl(model)
    else:
        pictures = transformers.CLIPImageProcessorPil.from_pretrained(model.info.name)
        processor = transformers.LlavaProcessor(
            pictures, model.tokenizer, patch_size=4, vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
        )  # fmt: skip
    want, got = processor(images=images or None, text=prompt, return_tensors="pt"), model.prepare(request)
    assert got.ids.tolist() == want["input_ids"][0].tolist()
    assert len(got.layout) == len(got.visual) == (got.ids == model.net.config.image_token_id).sum()
    assert got.positions.tolist() == [list(range(len(got.ids)))] and got.next_position == len(got.ids)
    if images:
        assert torch.equal(torch.cat([p.pixels for p in got.pictures]), want["pixel_values"])


def stock_internvl(model: Any) -> Any:
    """The stock processor, without the video part, which needs torchvision."""
    import transformers

    class Pictures(transformers.InternVLProcessor):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return ["image_processor", "tokenizer"]

    return Pictures(model.image_processor, model.tokenizer, image_seq_length=model.side**2)


def test_thinking_prompt(load: Any) -> None:
    """The R1 text, word by word, unless the request has a system text of its own."""
    assert R1 == FACTS_R1
    plain, thinking = load("internvl"), load("internvl", system_prompt="r1")
    asked = "<|im_start|>user\n<img><IMG_CONTEXT></img>\nHow many?<|im_end|>\n<|im_start|>assistant\n"
    request = Request("r", (noise(16, 16), QUESTION))
    assert text(plain, request) == asked
    assert text(thinking, request) == f"<|im_start|>system\n{R1}<|im_end|>\n{asked}"
    own = Request("r", request.content, system=("Be brief.",))
    assert text(thinking, own) == text(plain, own) == f"<|im_start|>system\nBe brief.<|im_end|>\n{asked}"


def test_vicuna_prompt(load: Any) -> None:
    """LLaVA's own conversation: the sentence about a curious user, pictures in place, no space at the end."""
    model, image = load("llava"), noise(16, 16)
    assert text(model, Request("r", (image, QUESTION))) == (
        "<s>A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: <image>\nHow many? ASSISTANT:"
    )
    two = Request("r", ("First:", image, "then:", image, QUESTION))
    assert text(model, two) == f"<s>{VICUNA} USER: First:<image>\nthen:<image>\nHow many? ASSISTANT:"
    assert text(model, Request("r", (QUESTION,), system=("Be brief.",))) == "<s>Be brief. USER: How many? ASSISTANT:"
    published = text(load("llava", system="none"), Request("r", (image, QUESTION)))
    assert published == "<s>USER: <image>\nHow many? ASSISTANT:"


def test_template_out_of_reach(folders: dict[str, Path], load: Any) -> None:
    """Some converted checkpoints keep their chat template apart from the tokenizer."""
    model = load_model(str(folders["llava"]), family="llava", weights="random", system="none")
    model.tokenizer.chat_template = None
    for system in ((), ("Be brief.",), ("Be brief.", "Be kind.")):
        request = Request("r", ("a", noise(16, 16), "b", noise(16, 16)), system=system)
        assert text(model, request) == text(load("llava", system="none"), request)


@pytest.mark.parametrize("family", ["internvl", "llava"])
@pytest.mark.parametrize("pictures", [0, 1])
def test_placeholders_in_the_text_fail_alone(load: Any, family: str, pictures: int) -> None:
    word = {"internvl": "<IMG_CONTEXT>", "llava": "<image>"}[family]
    with pytest.raises(BadSample, match="1 image placeholder"):
        load(family).prepare(Request("r", (*[noise(16, 16)] * pictures, f"what is {word}?")))


def test_elongated_pictures_fail_alone(load: Any) -> None:
    with pytest.raises(BadSample, match="aspect ratio"):
        load("llava").prepare(Request("r", (Image.new("RGB", (4000, 1)), QUESTION)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["internvl", "llava"])
def test_half_precision_runs(folders: dict[str, Path], family: str, dtype: str) -> None:
    model = load_model(str(folders[family]), family=family, weights="random", dtype=dtype)
    (picture,) = model.prepare(Request("r", (noise(16, 40), QUESTION))).pictures
    signals = (TowerAttention(-1), TowerAttention(-2, rows="received"), TowerKeys(-1), TowerHidden(0))
    out = model.encode(picture, signals)
    assert out.tokens.dtype == getattr(torch, dtype) and out.tokens.isfinite().all()
    assert {value.dtype for value, _ in out.signals.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("width", "height", "most", "rows", "columns"),
    [
        (16, 16, 12, 1, 1),  # the same shape: more tiles only while they cover at most twice the picture
        (40, 40, 12, 3, 3),  # 2 x 2 tiles cover 1,024 pixels, 3 x 3 cover 2,304 < 2 x 1,600
        (90, 30, 12, 2, 6),  # 3:1, and 6 x 2 tiles cover 3,072 < 2 x 2,700
        (30, 90, 4, 3, 1),
        (90, 30, 1, 1, 1),
        (2000, 1, 12, 1, 12),
    ],
)
def test_tiles(load: Any, width: int, height: int, most: int, rows: int, columns: int) -> None:
    """Tiles row by row, then the whole picture once more, each 2 x 2 visual tokens."""
    prompt = load("internvl", max_tiles=most).prepare(Request("r", (noise(width, height), QUESTION)))
    (picture,), layout, tiles = prompt.pictures, prompt.layout, rows * columns
    several = tiles > 1
    assert picture.grid == (rows, columns)
    assert picture.pixels.shape == (tiles + several, 3, TILE, TILE)
    assert set(layout.grid.values()) == {(2, 2)} and len(layout) == 4 * (tiles + several)
    assert layout.kind.tolist() == [PATCH] * 4 * tiles + [THUMBNAIL] * 4 * several
    assert layout.area[0, tiles - 1] == pytest.approx((1 - 1 / rows, 1 - 1 / columns, 1, 1))
    if several:
        assert layout.area[0, tiles] == (0, 0, 1, 1)
        corner = layout.shows([Box(0, 0, 0, 0.5 / rows, 0.5 / columns)])
        assert corner.nonzero().tolist() == [[0, 0]]


@pytest.mark.parametrize(("width", "height"), [(48, 24), (24, 48), (37, 20), (24, 24)])
def test_padding_shows_everything(load: Any, width: int, height: int) -> None:
    """The short side is padded in the mean colour on both sides, and boxes still find their tokens."""
    model, red = load("llava", image="pad"), Image.new("RGB", (width, height), (255, 0, 0))
    prompt = model.prepare(Request("r", (red, QUESTION)))
    pixels = prompt.pictures[0].pixels[0]
    square = Image.new("RGB", (max(width, height),) * 2, (122, 116, 104))
    square.paste(red, ((max(0, height - width)) // 2, max(0, width - height) // 2))
    by_hand = model.image_processor(images=[square], return_tensors="pt", do_pad=False)["pixel_values"][0]
    assert torch.equal(pixels, by_hand) and pixels.shape == (3, SQUARE, SQUARE)
    top, left, bottom, right = prompt.layout.area[0, 0]
    assert (bottom - top) * height == pytest.approx((right - left) * width) == pytest.approx(max(width, height))
    assert (top + bottom) / 2 == pytest.approx(0.5, abs=0.51 / height)
    if width == 2 * height:  # a quarter of the square is padding above and below: 1.5 of 6 rows
        assert prompt.layout.shows([Box(0, 0, 0, 1, 1)])[0].nonzero().flatten().tolist() == list(range(6, 30))


def test_cropping_loses_the_edges(load: Any) -> None:
    """The middle of the longer side, as the published processor does."""
    model, image = load("llava", image="crop"), Image.new("RGB", (96, 24), (0, 0, 0))
    image.paste((255, 255, 255), (36, 0, 60, 24))
    prompt = model.prepare(Request("r", (image, QUESTION)))
    assert prompt.pictures[0].pixels.min() > 1.5  # nothing of the black sides is left
    assert prompt.layout.area[0, 0] == pytest.approx((0, 36 / 96, 1, 60 / 96))
    assert not prompt.layout.shows([Box(0, 0, 0, 1, 36 / 96)]).any()


def test_options(folders: dict[str, Path]) -> None:
    """An option that a family does not have, or a value that it does not know, is one line."""
    for family, option in (
        ("llava", {"max_tiles": 6}),
        ("internvl", {"image": "pad"}),
        ("qwen3_vl", {"system": "none"}),
    ):
        with pytest.raises(ModelUnavailable, match=f"{family} models have no option {next(iter(option))}="):
            load_model(str(folders["llava"]), family=family, **option)
    for family, option in (("llava", {"image": "stretch"}), ("internvl", {"max_tiles": 0})):
        with pytest.raises(ModelUnavailable, match=next(iter(option))):
            load_model(str(folders[family]), family=family, weights="random", **option)
    model = ModelConfig(name="m", path=str(folders["llava"]), family="llava", max_tiles=6)
    with pytest.raises(InputError, match="no option max_tiles="):
        TorchBackend().info(model)


def test_info_from_the_config_alone(folders: dict[str, Path]) -> None:
    llava, internvl = (model_info(str(folders[f]), family=f) for f in ("llava", "internvl"))
    assert (llava.tower_depth, llava.unit, llava.feature_layer, llava.has_cls, llava.axes) == (3, 1, -2, True, 1)
    assert (internvl.tower_depth, internvl.unit, internvl.feature_layer, internvl.has_cls) == (2, 4, -1, True)
