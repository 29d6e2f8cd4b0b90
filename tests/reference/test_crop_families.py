"""The LLaVA and InternVL references against the stock models, and their pruning against stock layers on kept rows."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

sys.modules.setdefault("torchvision", None)  # type: ignore[arg-type]  # pictures are tensors here
from transformers import (  # noqa: E402
    CLIPVisionConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen3Config,
)  # fmt: skip

from . import internvl, llava  # noqa: E402
from .decoder import CropDecoder, FastV, Masks, Result  # noqa: E402

IMAGE, VOCAB, DEPTH = 90, 96, 4
TEXT = {
    "vocab_size": VOCAB, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": DEPTH, "head_dim": 16,
    "num_attention_heads": 4, "max_position_embeddings": 512, "pad_token_id": None, "bos_token_id": None,
    "eos_token_id": None, "rms_norm_eps": 1e-5,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 4,
}  # fmt: skip
FAMILIES = ["llava", "llava-gelu-gqa", "internvl", "internvl-norms"]
TILES = {"llava": [1, 1, 1], "internvl": [3, 1, 2]}


def build(family: str) -> Any:
    """Random weights large enough that every part changes the logits (fresh norms and biases would hide mistakes)."""
    torch.manual_seed(1)
    other = "-" in family
    if family.startswith("llava"):
        text = LlamaConfig(**TEXT, num_key_value_heads=2 if other else 4, rope_parameters={"rope_theta": 5e3})
        vision = CLIPVisionConfig(**VISION, image_size=12, hidden_act="gelu" if other else "quick_gelu")
        config = LlavaConfig(
            text_config=text, vision_config=vision, image_token_index=IMAGE, tie_word_embeddings=other,
            vision_feature_layer=-3 if other else -2,
        )  # fmt: skip
        kind: Any = LlavaForConditionalGeneration
    else:
        text = Qwen3Config(**TEXT, num_key_value_heads=2)
        vision = InternVLVisionConfig(
            **VISION, image_size=16, use_qk_norm=other, use_mean_pooling=not other, attention_bias=not other,
            norm_type="rms_norm" if other else "layer_norm",
        )  # fmt: skip
        config = InternVLConfig(text_config=text, vision_config=vision, image_token_id=IMAGE, tie_word_embeddings=other)
        kind = InternVLForConditionalGeneration
    model = kind._from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            ones = "lambda" in name or ("norm" in name and name.endswith("weight"))
            weight.normal_(1.0 if ones else 0.0, 0.2)
    model.generation_config.eos_token_id = None
    return model


def reference_of(model: Any) -> CropDecoder:
    family: Any = llava if isinstance(model, LlavaForConditionalGeneration) else internvl
    reference: CropDecoder = family.Reference(model)
    return reference


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Any:
    return build(request.param)


def sample(model: Any, pictures: int) -> tuple[list[int], Tensor | None, list[int]]:
    torch.manual_seed(pictures)
    family, side, each = ("llava", 12, 9) if model.config.model_type == "llava" else ("internvl", 16, 4)
    ids, tiles = [3, 1, 4], TILES[family][:pictures]
    for number, crops in enumerate(tiles):
        ids += [92, *[IMAGE] * (crops * each), 93, 10 + number]
    return [*ids, 5, 9, 2, 6], torch.randn(sum(tiles), 3, side, side) if pictures else None, tiles


def stock_inputs(ids: list[int], pixels: Tensor | None) -> dict[str, Tensor]:
    row = torch.tensor([ids])
    inputs = {"input_ids": row, "attention_mask": torch.ones_like(row)}
    return inputs if pixels is None else {**inputs, "pixel_values": pixels}


@torch.no_grad()
def on_kept_rows(model: Any, full: Result, cut: int, gone: list[int], asked: int) -> Tensor:
    """Logits of the last `asked` rows, of stock layers cut, cut + 1, ... which are given only the rows that remain."""
    text = model.model.language_model
    rows = [i for i in range(len(full.hidden[0])) if i not in gone]
    x = full.hidden[cut][None, rows]
    mask = torch.full((len(rows), len(rows)), float("-inf")).triu(1)[None, None]
    for layer in text.layers[cut:]:
        x = layer(x, position_embeddings=text.rotary_emb(x, torch.tensor([rows])), attention_mask=mask)
    logits: Tensor = model.lm_head(text.norm(x))[0, -asked:]
    return logits


@pytest.mark.parametrize("pictures", [0, 1, 3])
@torch.no_grad()
def test_equals_the_stock_model(model: Any, pictures: int) -> None:
    ids, pixels, tiles = sample(model, pictures)
    reference = reference_of(model)
    prompt = reference.prompt(ids, pixels, tiles)
    tokens = reference.greedy(prompt, 10)
    stock = model.generate(**stock_inputs(ids, pixels), max_new_tokens=10, do_sample=False)[0, len(ids) :]
    assert tokens == stock.tolist()
    assert len(set(tokens)) > 2  # a constant would hide much
    logits = reference.run(prompt, tokens).logits
    expected = model(**stock_inputs(ids + tokens, pixels)).logits[0, len(ids) - 1 :]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    if pixels is not None:  # the tower counts
        other = reference.run(reference.prompt(ids, pixels.flip(-1), tiles), tokens).logits
        assert (other - logits).abs().max() > 1e-3


@pytest.mark.parametrize("layer", range(DEPTH))
@torch.no_grad()
def test_hiding_equals_removing(model: Any, layer: int) -> None:
    """Layer 0: given sets. Later: FastV's, which are the top of the stock model's own attention weights."""
    ids, pixels, tiles = sample(model, 2)
    reference, generated = reference_of(model), [7, 8, 11]
    prompt = reference.prompt(ids, pixels, tiles)
    full = reference.run(prompt, generated)
    if layer == 0:
        kept = [[0, 2, 5], [1]]
        result = reference.run(prompt, generated, Masks({0: kept}))
    else:
        result = reference.run(prompt, generated, FastV(layer, [3, 1]))
        row = model(**stock_inputs(ids, pixels), output_attentions=True).attentions[layer - 1][0].mean(0)[-1]
        kept = [sorted(row[p].topk(k).indices.tolist()) for p, k in zip(prompt.pictures, [3, 1], strict=True)]
    assert result.kept == kept
    pairs = list(zip(prompt.pictures, kept, strict=True))
    gone = [at for picture, js in pairs for j, at in enumerate(picture) if j not in js]
    removed = on_kept_rows(model, full, layer, gone, 1 + len(generated))
    torch.testing.assert_close(result.logits, removed, atol=1e-4, rtol=1e-4)
    assert (result.logits - full.logits).abs().max() > 1e-3  # pruning is seen at all


@pytest.mark.parametrize("family", ["llava", "internvl"])
def test_pictures_are_groups_of_crops(family: str) -> None:
    """All crops of a picture together, crop after crop, and each sees itself alone."""
    model = build(family)
    ids, pixels, tiles = sample(model, 3)
    assert pixels is not None
    reference = reference_of(model)
    prompt = reference.prompt(ids, pixels, tiles)
    assert [at for picture in prompt.pictures for at in picture] == [i for i, x in enumerate(ids) if x == IMAGE]
    each = len(prompt.pictures[-1]) // tiles[-1]
    assert [len(picture) for picture in prompt.pictures] == [each * crops for crops in tiles]
    pixels[1] += 1
    changed = (reference.prompt(ids, pixels, tiles).embeds - prompt.embeds).abs().amax(1) > 0
    assert changed.nonzero().flatten().tolist() == [at for p in prompt.pictures for at in p][each : 2 * each]
