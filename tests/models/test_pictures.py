"""Pictures of every condition: read alike, or refused so that only their own sample fails."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageFile

from harness.engine import Decoding, Engine, Request
from harness.models import BadSample, Model, load_model, model_info, processor_hash, weights_id
from harness.models.base import ModelUnavailable
from harness.models.pictures import open_picture
from pruners import NoPruning
from tests.conftest import prompts


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1", "CMYK", "I;16"])
def test_modes_become_rgb(mode: str) -> None:
    base = Image.new("RGB", (4, 4), (200, 10, 10))
    assert open_picture(base.convert(mode) if mode != "I;16" else Image.new("I;16", (4, 4))).mode == "RGB"


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    (tmp_path / "clear.png").write_bytes(png(clear))
    for picture in (clear, png(clear), tmp_path / "clear.png"):
        assert open_picture(picture).getpixel((0, 0)) == (255, 255, 255)


def bomb() -> bytes:
    """A file of a hundred bytes that claims far more pixels than anyone should open."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_pictures_are_turned_upright() -> None:
    """As `datasets` decodes them: a camera held upright writes a lying picture and says so."""
    lying, file, exif = Image.new("RGB", (8, 4)), io.BytesIO(), Image.Exif()
    lying.paste((255, 0, 0), (0, 0, 4, 4))
    exif[0x0112] = 6  # turn a quarter to the right
    lying.save(file, "PNG", exif=exif)
    upright = open_picture(file.getvalue())
    assert upright.size == (4, 8)
    assert (upright.getpixel((0, 0)), upright.getpixel((0, 7))) == ((255, 0, 0), (0, 0, 0))
    assert open_picture(upright).size == (4, 8)


@pytest.mark.parametrize(
    "data", [b"", b"not a picture", png(Image.new("RGB", (64, 64)))[:60]], ids=["empty", "text", "torn"]
)
def test_damaged(data: bytes) -> None:
    with pytest.raises(BadSample, match="unreadable"):
        open_picture(data)


def test_torn_files_are_damaged_whatever_others_told_pil(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = png(Image.effect_noise((64, 64), 90))
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(BadSample):
        open_picture(whole[: len(whole) // 2])
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_bomb_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadSample, match=r"larger|limit"):
        open_picture(bomb())
    with pytest.raises(BadSample, match="No such file"):
        open_picture(tmp_path / "missing.png")


def test_only_the_culprits_fail(trained: Model) -> None:
    """Damaged pictures, extreme shapes and control tokens in a text fail their own sample; the others go on."""
    good = prompts(5)
    bad = [
        Request("torn", (b"torn", "how many pips at c3?")),
        Request("line", (Image.new("RGB", (4000, 1)), "how many pips at c3?")),
        Request("token", (Image.new("RGB", (64, 64)), "what is <|image_pad|>?")),
    ]
    mixed = [good[0], bad[0], good[1], good[2], *bad[1:], *good[3:]]
    traces = {t.id: t for t in Engine(trained, slots=3).run(mixed, NoPruning(), Decoding(max_new_tokens=8))}
    assert {i for i, t in traces.items() if t.finish == "error"} == {"torn", "line", "token"}
    assert all(traces[r.id].error for r in bad)
    alone = {t.id: t for t in Engine(trained).run(good, NoPruning(), Decoding(max_new_tokens=8))}
    assert all(traces[i].token_ids == t.token_ids for i, t in alone.items())


def test_unavailable_models(tmp_path: Path) -> None:
    """The message says what was tried and how to give a local path."""
    for path in ("builtin:nothing", "nobody/nothing", str(tmp_path)):
        with pytest.raises(ModelUnavailable):
            load_model(path, family="qwen3_vl")
    with pytest.raises(ModelUnavailable, match=r"model\.path="):
        model_info("nobody/nothing", family="qwen3_vl")
    with pytest.raises(ModelUnavailable, match="qwen3_vl"):
        load_model("builtin:qwen3_vl", family="unknown")


def test_identities_of_files(tmp_path: Path) -> None:
    """Other weights or another processor give another identity."""
    from harness.models.loading import TINY

    copy = tmp_path / "copy"
    copy.mkdir()
    for file in (TINY / "qwen3_vl").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    shipped = "builtin:qwen3_vl"
    assert weights_id(str(copy)) == weights_id(shipped) and processor_hash(str(copy)) == processor_hash(shipped)
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-1] ^= 1  # of files above 4 MiB only some blocks are read, the last one among them
    (copy / "model.safetensors").write_bytes(data)
    assert weights_id(str(copy)) != weights_id(shipped)
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    assert processor_hash(str(copy)) != processor_hash(shipped)


def test_random_weights_are_reproducible() -> None:
    a, b = (load_model("builtin:qwen3_vl", family="qwen3_vl", weights="random") for _ in range(2))
    for x, y in zip(a.net.parameters(), b.net.parameters(), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_folders_of_other_families_are_refused(family: str) -> None:
    """A path that holds another architecture, however alike."""
    for load in (model_info, load_model):
        with pytest.raises(ModelUnavailable, match=f"holds a qwen3_vl model, where model.family={family} is wanted"):
            load("builtin:qwen3_vl", family=family)
