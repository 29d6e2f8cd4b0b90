"""How many visual tokens a picture becomes under the published Qwen3-VL processor, and where they stand."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

from harness.engine import Request
from harness.models import BadSample, Model, load_model
from harness.models.loading import TINY

# preprocessor_config.json of Qwen/Qwen3-VL-4B-Instruct; the limits are numbers of pixels, 64 and 16,384 visual tokens.
PUBLISHED = {
    "size": {"longest_edge": 16777216, "shortest_edge": 65536}, "patch_size": 16, "temporal_patch_size": 2,
    "merge_size": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    "processor_class": "Qwen3VLProcessor", "image_processor_type": "Qwen2VLImageProcessorFast",
}  # fmt: skip
VTP = (None, None)  # what is published
DSTP = (256 * 28**2, 1280 * 28**2)  # 200,704 to 1,003,520 pixels: Qwen2.5-VL's 28-pixel units on 32-pixel ones


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as published, with the shipped tiny model in place of the weights and 16-pixel patches."""
    out = tmp_path_factory.mktemp("published")
    shutil.copytree(TINY / "qwen3_vl", out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((out / "config.json").read_text())
    config["vision_config"]["patch_size"] = 16
    (out / "config.json").write_text(json.dumps(config))
    (out / "preprocessor_config.json").write_text(json.dumps(PUBLISHED))
    return out


@cache
def published(folder: Path, limits: tuple[int | None, int | None]) -> Model:
    least, most = limits
    return load_model(str(folder), family="qwen3_vl", weights="random", min_pixels=least, max_pixels=most)


def request(width: int, height: int) -> Request:
    return Request("s", (Image.new("RGB", (width, height), "teal"), "what is it?"))


# A side s becomes round(s / 32) units. Outside the limits (least, most pixels) both sides are scaled by one factor
# first, f = sqrt(limit / (width x height)), and rounded down when shrinking, up when enlarging.
@pytest.mark.parametrize(
    ("limits", "width", "height", "columns", "rows"),
    [
        # 20 x 15 units exactly
        (VTP, 640, 480, 20, 15),  # 300
        # 40 x 22.5: halves go to the even number
        (VTP, 1280, 720, 40, 22),  # 880
        # 31.25 x 9.375
        (VTP, 1000, 300, 31, 9),  # 279
        # 3 x 2 units are 6,144 pixels, too few: f = sqrt(65536 / 6000) = 3.3049; 10.33 x 6.20 rounded up
        (VTP, 100, 60, 11, 7),  # 77
        # 125 x 188 units are 24,064,000 pixels, too many: f = sqrt(16777216 / 24e6) = 0.83610; 104.51 x 156.77 down
        (VTP, 4000, 6000, 104, 156),  # 16224
        (DSTP, 640, 480, 20, 15),  # 307,200 pixels
        (DSTP, 1280, 720, 40, 22),  # 901,120 pixels
        (DSTP, 1000, 300, 31, 9),  # 285,696 pixels
        # f = sqrt(200704 / 6000) = 5.7837; 18.07 x 10.84 rounded up
        (DSTP, 100, 60, 19, 11),  # 209
        # f = sqrt(1003520 / 24e6) = 0.20448; 25.56 x 38.34 rounded down
        (DSTP, 4000, 6000, 25, 38),  # 950
        # the two ends of DSTP's range: 28 sqrt(256) / 32 = 14 units square, 28 sqrt(1280) / 32 = 31.3 square
        (DSTP, 448, 448, 14, 14),  # 196
        (DSTP, 2000, 2000, 31, 31),  # 961
    ],
)  # fmt: skip
def test_counts_by_hand(
    folder: Path, limits: tuple[int | None, int | None], width: int, height: int, columns: int, rows: int
) -> None:
    prompt = published(folder, limits).prepare(request(width, height))
    (picture,) = prompt.pictures
    assert prompt.layout.grid == {(0, 0): (rows, columns)}
    assert picture.grid == (2 * rows, 2 * columns)
    assert picture.pixels.shape == (4 * rows * columns, 3 * 2 * 16 * 16)
    assert len(prompt.visual) == len(prompt.layout) == rows * columns


def test_places_and_position_ids(folder: Path) -> None:
    """7 x 11 visual tokens behind the text: rows and columns count from there, text goes on behind the longer side."""
    prompt = published(folder, VTP).prepare(request(100, 60))
    first, last = int(prompt.visual[0]), int(prompt.visual[-1])
    assert last - first == 76
    assert prompt.positions[:, first].tolist() == [first] * 3
    assert prompt.positions[:, first + 12].tolist() == [first, first + 1, first + 1]
    assert prompt.positions[:, last].tolist() == [first, first + 6, first + 10]
    assert prompt.positions[:, last + 1].tolist() == [first + 11] * 3
    assert prompt.next_position == first + 11 + len(prompt.ids) - 1 - last


def test_extreme_shapes_fail_alone(folder: Path) -> None:
    """The published processor refuses aspect ratios above 200."""
    with pytest.raises(BadSample, match="aspect ratio"):
        published(folder, VTP).prepare(request(8040, 40))
