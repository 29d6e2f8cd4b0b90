"""SmolVLM2: prompts and pixels of the stock processor, the stock model's replies, and methods of every moment."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers.models.smolvlm import processing_smolvlm

from harness.engine import Decoding, Engine, Request
from harness.models import BadSample, ModelUnavailable, load_model
from pruners import NoPruning
from pruners.layout import PATCH, THUMBNAIL, Box
from tests.models.adapters import MOMENTS, every_method_runs
from tests.models.folders import SQUARE, write
from tests.tiny import CONFIGS, Grid, Prompted, shake, smolvlm, stock, text_sizes, tower_sizes

QUESTION = "How many?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write("smolvlm", tmp_path_factory.mktemp("smolvlm"))


@cache
def load(folder: Path) -> Any:
    model = load_model(str(folder), family="smolvlm", weights="random")
    shake(model.net, 0.15)
    return model


@cache
def prompted(*grids: Grid) -> Any:
    return Prompted(CONFIGS["smolvlm"], "cpu", grids, noise=0.15)


def noise(width: int, height: int) -> Image.Image:
    return Image.effect_noise((width, height), 90).convert("RGB")


class Pictures(processing_smolvlm.SmolVLMProcessor):  # type: ignore[misc]
    """The stock processor, without the video part, which needs torchvision."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]


@pytest.mark.parametrize(
    "sizes", [[], [(96, 96)], [(90, 31), (12, 15)], [(31, 90), (200, 1), (96, 60)], [(3000, 2000)]], ids=str
)
@pytest.mark.parametrize("split", [True, False])
def test_equals_the_stock_model(
    folder: Path, sizes: list[tuple[int, int]], split: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids and pixels of the stock processor under the published template, whole pictures and tiles; then the replies
    of the stock model."""
    monkeypatch.setattr(processing_smolvlm, "num2words", str)  # asked for, but used for videos alone
    model, images = load(folder), [noise(*size) for size in sizes]
    monkeypatch.setattr(model.image_processor, "do_image_splitting", split)
    parts = [*({"type": "image"} for _ in images), {"type": "text", "text": QUESTION}]
    said = [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}] if len(sizes) == 1 else []
    text = model.tokenizer.apply_chat_template(
        [*said, {"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True
    )
    processor = Pictures(model.image_processor, model.tokenizer, None, image_seq_len=model.side**2)
    want = processor(images=[images] if images else None, text=[text], return_tensors="pt")
    request = Request("r", (*images, QUESTION), system=("Be brief.",) if said else ())
    got = model.prepare(request)
    assert got.ids.tolist() == want["input_ids"][0].tolist() and len(got.layout) == len(got.visual)
    assert got.positions.tolist() == [list(range(len(got.ids)))] and got.next_position == len(got.ids)
    if images:
        assert torch.equal(torch.cat([p.pixels for p in got.pictures]), want["pixel_values"][0])
        assert want["pixel_attention_mask"].all()
    want.pop("token_type_ids", None)
    theirs = stock(model).generate(**want, do_sample=False, max_new_tokens=16, pad_token_id=0)
    (trace,) = Engine(model).run([request], NoPruning(), Decoding(max_new_tokens=16))
    assert trace.error is None and trace.visual_tokens == len(got.visual)
    stop = [t for t in theirs[0, len(got.ids) :].tolist() if t not in model.stop_ids]
    assert [t for t in trace.token_ids if t not in model.stop_ids] == stop


@pytest.mark.parametrize(
    ("width", "height", "rows", "columns"),
    # the longer side becomes 96 pixels, both sides are rounded up to tiles of 24 pixels
    [(96, 96, 4, 4), (90, 31, 2, 4), (31, 90, 4, 2), (2000, 1, 1, 4)],
)
def test_tiles(folder: Path, width: int, height: int, rows: int, columns: int) -> None:
    """Row by row with text before each tile, then the whole; boxes find what shows them."""
    prompt = load(folder).prepare(Request("r", (noise(width, height), QUESTION)))
    (picture,), layout, tiles = prompt.pictures, prompt.layout, rows * columns
    assert picture.grid == (rows, columns) and picture.pixels.shape == (tiles + 1, 3, SQUARE, SQUARE)
    assert layout.kind.tolist() == [PATCH] * 4 * tiles + [THUMBNAIL] * 4
    starts = prompt.visual[::4]
    assert (prompt.visual - starts.repeat_interleave(4)).tolist() == [0, 1, 2, 3] * (tiles + 1)
    assert (starts.diff() > 4).all()
    corner = layout.shows([Box(0, 0, 0, 0.5 / rows, 0.5 / columns)])
    assert corner.nonzero().tolist() == [[0, 0]]


@pytest.mark.parametrize(("patch", "image", "merge"), [(14, 384, 3), (16, 512, 4)])
@torch.inference_mode()
def test_position_embeddings_of_published_sizes(patch: int, image: int, merge: int) -> None:
    """27 x 27 and 32 x 32 patches, whose places the stock tower works out with fractions."""
    config = smolvlm(text_sizes(32, 1, 2, 2, 16, 48, 50), tower_sizes(1, 16, 2, 32, patch, image), merge)
    model: Any = Prompted(config, "cpu", [(1, 1)], noise=0.2)
    (picture,) = model.pictures
    want = stock(model).model.get_image_features(pixel_values=picture.pixels[None], return_dict=True).pooler_output
    torch.testing.assert_close(model.encode(picture).tokens, torch.cat(list(want)), atol=1e-4, rtol=1e-4)


def test_what_cannot_be_asked(folder: Path) -> None:
    with pytest.raises(BadSample, match="1 image placeholder"):
        load(folder).prepare(Request("r", (noise(16, 16), "what is <image>?")))
    with pytest.raises(ModelUnavailable, match="smolvlm models have no option max_tiles=; theirs: none"):
        load_model(str(folder), family="smolvlm", max_tiles=3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_runs(folder: Path, dtype: str) -> None:
    model = load_model(str(folder), family="smolvlm", weights="random", dtype=dtype)
    (picture,) = model.prepare(Request("r", (noise(16, 40), QUESTION))).pictures
    out = model.encode(picture)
    assert out.tokens.dtype == getattr(torch, dtype) and out.tokens.isfinite().all()


@pytest.mark.parametrize("check", MOMENTS)
def test_moments(check: Any) -> None:
    check(prompted((2, 2)))


def test_every_method_runs() -> None:
    every_method_runs(prompted((2, 2), (1, 1)))
