"""Which tokens show a region, against fractions in plain Python."""

import random
from fractions import Fraction

import torch

from pruners.layout import NEWLINE, PATCH, THUMBNAIL, Box, Crop, VisualLayout


def test_tokens_that_show_a_box() -> None:
    """Crops with padding, newlines and thumbnails, in any order; boxes that end on the edges of tokens touch none."""
    draw = random.Random(0)
    found = 0
    for _ in range(50):
        pictures = [
            [_crop(draw, kind) for kind in draw.choices((PATCH, PATCH, THUMBNAIL, NEWLINE), k=draw.randint(1, 3))]
            for _ in range(draw.randint(1, 3))
        ]
        layout = VisualLayout.of_crops(pictures)
        order = draw.sample(range(len(layout)), len(layout))
        boxes = [_box(draw, len(pictures)) for _ in range(draw.randint(0, 4))]
        tokens = [
            (number, crop, i // crop.columns, i % crop.columns)
            for number, crops in enumerate(pictures)
            for crop in crops
            for i in range(crop.rows * crop.columns)
        ]
        shows = layout.shows(boxes)[:, order]
        assert shows.tolist() == [[_overlaps(*tokens[i], box) for i in order] for box in boxes]
        assert (layout[torch.tensor(order)].shows(boxes) == shows).all()
        found += int(shows.sum())
    assert found > 100


def _crop(draw: random.Random, kind: int) -> Crop:
    (up, down), (left, right) = (sorted(draw.sample(range(-4, 13), 2)) for _ in range(2))
    columns = 1 if kind == NEWLINE else draw.randint(1, 6)
    return Crop(draw.randint(1, 6), columns, (up / 8, left / 8, down / 8, right / 8), kind)


def _box(draw: random.Random, pictures: int) -> Box:
    (top, bottom), (left, right) = (sorted(draw.sample(range(25), 2)) for _ in range(2))
    return Box(draw.randrange(pictures), top / 24, left / 24, bottom / 24, right / 24)


def _overlaps(picture: int, crop: Crop, row: int, column: int, box: Box) -> bool:
    if crop.kind != PATCH or picture != box.picture:
        return False
    up, across, down, end = map(Fraction, crop.area)
    tall, wide = (down - up) / crop.rows, (end - across) / crop.columns
    top, left, bottom, right = (Fraction(x).limit_denominator(24) for x in (box.top, box.left, box.bottom, box.right))
    return bool(
        up + row * tall < bottom and up + (row + 1) * tall > top
        and across + column * wide < right and across + (column + 1) * wide > left
    )  # fmt: skip
