"""The reference against the stock model, and its pruning against stock layers that run on the kept rows alone."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.modules.setdefault("torchvision", None)  # type: ignore[arg-type]  # pictures are tensors here
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration  # noqa: E402

from .decoder import FastV, Masks, Prompt, Result, top  # noqa: E402
from .qwen3_vl import Grid, Reference  # noqa: E402

IMAGE, VOCAB, DEPTH = 90, 96, 3
GRIDS: list[Grid] = [(1, 4, 6), (1, 2, 8), (1, 6, 4)]  # the 5 x 5 table of positions fits none of them
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
TEXT = {
    "vocab_size": VOCAB, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": DEPTH, "head_dim": 16,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "rope_parameters": ROPE,
    "pad_token_id": None, "eos_token_id": None,
}  # fmt: skip
VISION = {
    "depth": 3, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "patch_size": 4, "spatial_merge_size": 2,
    "temporal_patch_size": 2, "out_hidden_size": 48, "num_position_embeddings": 25, "deepstack_visual_indexes": [0, 1],
}  # fmt: skip


def build(tied: bool, depth: int = DEPTH) -> Qwen3VLForConditionalGeneration:
    """Random weights large enough that every part changes the logits (fresh norms and biases would hide mistakes)."""
    torch.manual_seed(0)
    config = Qwen3VLConfig(
        image_token_id=IMAGE, video_token_id=91, vision_start_token_id=92, vision_end_token_id=93,
        text_config={**TEXT, "num_hidden_layers": depth, "tie_word_embeddings": tied}, vision_config={**VISION},
        tie_word_embeddings=tied,
    )  # fmt: skip
    model = Qwen3VLForConditionalGeneration._from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.2)
    model.generation_config.eos_token_id = None
    return model


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def model(request: pytest.FixtureRequest) -> Qwen3VLForConditionalGeneration:
    return build(request.param)


def sample(pictures: int) -> tuple[list[int], Tensor | None, list[Grid]]:
    torch.manual_seed(pictures)
    ids, grids = [3, 1, 4], GRIDS[:pictures]
    for number, (_, h, w) in enumerate(grids):
        ids += [92, *[IMAGE] * (h * w // 4), 93, 10 + number]
    patches = sum(h * w for _, h, w in grids)
    return [*ids, 5, 9, 2, 6], torch.randn(patches, 3 * 2 * 4 * 4) if pictures else None, grids


def stock_inputs(ids: list[int], pixels: Tensor | None, grids: list[Grid]) -> dict[str, Tensor]:
    row = torch.tensor([ids])
    inputs = {"input_ids": row, "attention_mask": torch.ones_like(row), "mm_token_type_ids": (row == IMAGE).int()}
    return inputs if pixels is None else {**inputs, "pixel_values": pixels, "image_grid_thw": torch.tensor(grids)}


@torch.no_grad()
def on_kept_rows(model: Qwen3VLForConditionalGeneration, prompt: Prompt, full: Result, cut: int, kept: list[list[int]],
                 generated: list[int]) -> Tensor:  # fmt: skip
    """Logits of stock layers cut, cut + 1, ... that are given only the rows which are kept."""
    text, visual = model.model.language_model, [at for picture in prompt.pictures for at in picture]
    alive = {picture[j] for picture, js in zip(prompt.pictures, kept, strict=True) for j in js}
    rows = [i for i in range(len(full.hidden[0])) if i in alive or i not in visual]
    after = prompt.positions.max() + 1 + torch.arange(len(generated)).expand(3, -1)
    positions = torch.cat([prompt.positions, after], 1)[:, None, rows]
    x = full.hidden[cut][None, rows]
    mask = torch.full((len(rows), len(rows)), float("-inf")).triu(1)[None, None]
    for i in range(cut, DEPTH):
        x = text.layers[i](x, position_embeddings=text.rotary_emb(x, positions), attention_mask=mask)
        if i < len(prompt.deepstack):
            for at, row in zip(visual, prompt.deepstack[i], strict=True):
                if at in alive:
                    x[0, rows.index(at)] += row
    return model.lm_head(text.norm(x))[0, -1 - len(generated) :]


@pytest.mark.parametrize("pictures", [0, 1, 2, 3])
@torch.no_grad()
def test_equals_the_stock_model(model: Qwen3VLForConditionalGeneration, pictures: int) -> None:
    ids, pixels, grids = sample(pictures)
    reference = Reference(model)
    prompt = reference.prompt(ids, pixels, grids)
    tokens = reference.greedy(prompt, 10)
    stock = model.generate(**stock_inputs(ids, pixels, grids), max_new_tokens=10, do_sample=False)[0, len(ids) :]
    assert tokens == stock.tolist()
    assert len(set(tokens)) > 2  # a constant would hide much
    logits = reference.run(prompt, tokens).logits
    expected = model(**stock_inputs(ids + tokens, pixels, grids)).logits[0, len(ids) - 1 :]
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layer", range(DEPTH))
def test_hiding_equals_removing(model: Qwen3VLForConditionalGeneration, layer: int) -> None:
    """Layer 0: given sets. Later: FastV's, which are the top of the stock model's own attention weights."""
    ids, pixels, grids = sample(2)
    reference, generated = Reference(model), [7, 8, 11]
    prompt = reference.prompt(ids, pixels, grids)
    full = reference.run(prompt, generated)
    if layer == 0:
        kept = [[0, 2, 5], [1]]
        result = reference.run(prompt, generated, Masks({0: kept}))
    else:
        result = reference.run(prompt, generated, FastV(layer, [3, 1]))
        weights = model(**stock_inputs(ids, pixels, grids), output_attentions=True).attentions[layer - 1]
        row = weights[0].mean(0)[-1]
        kept = [sorted(row[p].topk(k).indices.tolist()) for p, k in zip(prompt.pictures, [3, 1], strict=True)]
        assert reference.run(prompt, generated, Masks({layer: kept})).logits.equal(result.logits)
    assert result.kept == kept
    removed = on_kept_rows(model, prompt, full, layer, kept, generated)
    torch.testing.assert_close(result.logits, removed, atol=1e-5, rtol=1e-5)
    assert (result.logits - full.logits).abs().max() > 1e-3  # pruning is seen at all
    for entering in range(layer + 1):  # nothing changes before the cut
        assert result.hidden[entering].equal(full.hidden[entering])


def test_keeping_everything_changes_nothing(model: Qwen3VLForConditionalGeneration) -> None:
    reference = Reference(model)
    prompt = reference.prompt(*sample(3))
    full = reference.run(prompt, [7])
    everything = [list(range(len(picture))) for picture in prompt.pictures]
    for rule in (FastV(1, [99, 99, 99]), FastV(DEPTH - 1, [6, 4, 6]), Masks({0: everything}), Masks({})):
        result = reference.run(prompt, [7], rule)
        assert result.kept == everything
        assert result.logits.equal(full.logits)


def test_no_visual_tokens_no_influence_of_the_picture() -> None:
    ids, pixels, grids = sample(2)
    assert pixels is not None
    reference = Reference(build(tied=True))
    logits = [
        reference.run(reference.prompt(ids, p, grids), [7], Masks({0: [[], []]})).logits for p in (pixels, -pixels)
    ]
    assert logits[0].equal(logits[1])


def test_equal_scores_go_to_the_lower_index() -> None:
    assert top(torch.tensor([0.1, 0.3, 0.2, 0.3, 0.2]), 3) == [1, 3, 2]
    model = build(tied=True)
    weights = model.model.language_model.layers[0].self_attn.q_proj.weight
    torch.nn.init.zeros_(weights)  # now layer 0 looks at everything alike
    reference = Reference(model)
    result = reference.run(reference.prompt(*sample(2)), [], FastV(1, [3, 2]))
    assert result.kept == [[0, 1, 2], [0, 1]]
    n = len(sample(2)[0])
    torch.testing.assert_close(torch.cat(result.scores), torch.full((10,), 1 / n))


def test_what_has_gone_cannot_return() -> None:
    reference = Reference(build(tied=True))
    with pytest.raises(AssertionError, match="cannot return"):
        reference.run(reference.prompt(*sample(1)), [], Masks({1: [[0]], 2: [[0, 1]]}))


def test_double_precision_agrees() -> None:
    model = build(tied=False)
    single, double = (
        r.run(r.prompt(*sample(2)), [7], FastV(1, [3, 1])) for r in (Reference(model), Reference(model, torch.float64))
    )
    assert single.kept == double.kept and double.logits.dtype == torch.float64
    torch.testing.assert_close(single.logits.double(), double.logits, atol=1e-4, rtol=1e-4)


def test_references_are_independent() -> None:
    """They may not borrow from what they judge."""
    for path in Path(__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text())
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not [name for name in names if name.split(".")[0] in ("harness", "pruners")], path.name
