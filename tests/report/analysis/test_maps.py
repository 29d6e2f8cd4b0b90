"""Scores of maps against a plain count, the maps themselves against stock models, and what is said of them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers

from harness.engine import Decoding, Engine
from harness.report.analysis.kind import Ask
from harness.report.analysis.live import asked, cells
from harness.report.analysis.maps import KINDS, Mapped, measure, scores
from harness.report.analysis.maps_shown import draw, findings
from harness.runs.backend import TorchBackend
from harness.runs.compose import Configs
from harness.runs.errors import InputError
from pruners import NoPruning
from pruners.desap import aligned
from pruners.views import ClipText


def ask(**changes: object) -> Ask:
    given: dict[str, object] = {"models": ("tiny_llava",), "limit": 4}
    return Ask(results=Path("none"), configs=Configs.find(), backend=TorchBackend(), **{**given, **changes})  # type: ignore[arg-type]


def test_scores_equal_a_plain_count() -> None:
    rng = random.Random(0)
    for _ in range(100):
        values = [rng.choice((0.1, 0.2, 0.3, 0.4)) for _ in range(18)]
        needed = rng.sample(range(18), rng.randint(1, 3))
        found = scores(np.array(values), np.array(needed))
        rest = [v for i, v in enumerate(values) if i not in needed]
        wins = [(values[i] > v) + 0.5 * (values[i] == v) for i in needed for v in rest]
        assert found["auc"] == pytest.approx(sum(wins) / len(wins))
        place = [sum(v > values[i] for v in values) + (1 + sum(v == values[i] for v in values)) / 2 for i in needed]
        assert found["rank"] == min(place) and found["hit"] == (min(place) == 1)
        assert found["ninth"] == sum(p <= 2 for p in place) / len(place)
        assert found["third"] == sum(p <= 6 for p in place) / len(place)
        assert found["chance"] == len(needed) / 18


def test_tokens_without_a_value_do_not_count() -> None:
    found = scores(np.array([np.nan, 3.0, 2.0, 1.0]), np.array([0, 1]))
    assert (found["rank"], found["hit"], found["auc"], found["tokens"]) == (1, 1, 1, 3)


@torch.no_grad()
def test_maps_equal_the_stock_models() -> None:
    """All four, of two samples, from transformers' CLIP and LLaVA with eager attention."""
    (cell,) = cells(ask(benchmarks=("glyph_walk",)), "tiny_llava", [["pruner=none"]])
    model = TorchBackend().engine(cell.config.model, cell.config.engine, "cpu").model  # type: ignore[attr-defined]
    wanted, requests = Mapped(kinds=KINDS, layer=2), [request for _, request in asked(cell, 2)]
    traces = list(Engine(model).run(requests, wanted, Decoding(max_new_tokens=2)))
    plain = list(Engine(model).run(requests, NoPruning(), Decoding(max_new_tokens=2)))
    assert [t.token_ids for t in traces] == [t.token_ids for t in plain], "it does not keep everything"
    clip = transformers.CLIPModel.from_pretrained(Path("harness/tiny/llava/clip"), attn_implementation="eager").eval()
    words = transformers.AutoTokenizer.from_pretrained(Path("harness/tiny/llava/clip"))
    llava = transformers.LlavaForConditionalGeneration.from_pretrained(
        Path("harness/tiny/llava"), attn_implementation="eager", dtype=torch.float32
    ).eval()
    for request in requests:
        prompt, found = model.prepare(request), wanted.found[request.id]
        pixels = prompt.pictures[0].pixels
        ids = prompt.ids[None]
        out = llava(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, output_attentions=True)
        cross = out.attentions[2][0, :, -1, prompt.visual].mean(0)
        seen = clip.vision_model(pixels, output_attentions=True, output_hidden_states=True)
        text = clip.text_model(**words(request.content[-1], return_tensors="pt"))
        end = clip.text_projection(text.pooler_output)[0]
        tokens = clip.text_projection(text.last_hidden_state)[0]
        project = lambda x: clip.visual_projection(clip.vision_model.post_layernorm(x))  # noqa: E731
        last = clip.vision_model.encoder.layers[-1]
        entering = last.layer_norm1(seen.hidden_states[-2][0])
        heads = last.self_attn.num_heads
        q, v = (
            part(entering).unflatten(1, (heads, -1)).transpose(0, 1)
            for part in (last.self_attn.q_proj, last.self_attn.v_proj)
        )
        mixed = ((q @ q.mT) * q.shape[-1] ** -0.5).softmax(-1) @ v
        mixed = project(last.self_attn.out_proj(mixed.transpose(0, 1).flatten(1)))
        theirs = {
            "cls": seen.attentions[-1][0, :, 0, 1:].mean(0), "cross": cross,
            "vanilla": torch.cosine_similarity(project(seen.hidden_states[-1][0, 1:]), end, dim=-1),
            "decoupled": aligned(mixed[1:], mixed[0], ClipText(tokens, end[None]), 0.1),
        }  # fmt: skip
        for kind, values in theirs.items():
            np.testing.assert_allclose(found[kind], values.numpy(), atol=1e-5, rtol=1e-4, err_msg=kind)


@pytest.fixture(scope="module")
def measured() -> pd.DataFrame:
    return measure(ask(models=("tiny_llava", "tiny_qwen3_vl")))


def test_measure(measured: pd.DataFrame) -> None:
    score = measured[measured.part == "score"]
    assert score.groupby(["model", "task", "kind"]).size().to_dict() == {
        (model, task, kind): 4 for model in ("tiny_llava", "tiny_qwen3_vl") for task in ("glyph_lookup", "glyph_walk")
        for kind in (KINDS if model == "tiny_llava" else KINDS[:2])
    }  # fmt: skip
    assert (score[score.kind == "cls"].change == 0).all() and (score[score.kind != "cls"].change > 1e-4).all()
    skipped = measured[measured.part == "skipped"]
    assert list(zip(skipped.model, skipped.kind, strict=True)) == [
        ("tiny_qwen3_vl", k) for k in ("vanilla", "decoupled")
    ]
    profile = measured[measured.part == "profile"].groupby(["model", "task", "kind"]).value.mean()
    assert np.allclose(profile.to_numpy(), 1, atol=1e-6)
    drawn = measured[measured.part == "map"].groupby(["model", "task", "id", "kind"])
    assert (drawn.size() == 64).all() and (drawn.needed.sum() == 1).all() and drawn.ngroups == 4 * 4 + 4 * 2


def test_draws_from_its_file(measured: pd.DataFrame, tmp_path: Path) -> None:
    measured.to_csv(tmp_path / "maps.csv", index=False)
    frame = pd.read_csv(tmp_path / "maps.csv")
    assert len(draw(frame).axes) == 4 * 5
    only = draw(frame[~frame.kind.isin(["vanilla", "decoupled"]) | frame.kind.isna()])
    assert [axis.get_title() for axis in only.axes[6:8]] == ["cls", "cross"]
    assert {f.model for f in findings(frame)} == {"tiny_llava", "tiny_qwen3_vl"}


def frame(**auc: float) -> pd.DataFrame:
    """Thirty samples per kind, AUC around the given means; attention that rises along the sequence."""
    base = {"vanilla": 0.6, "decoupled": 0.9, "cross": 0.8, "cls": 0.5, **auc}
    rows = [
        {"part": "score", "model": "m", "kind": kind, "hit": 0.25, "ninth": 0.5, "auc": mean + 0.1 * (-1) ** i,
         "change": 0.0 if kind == "cls" else 0.5}
        for kind, mean in base.items() for i in range(30)
    ]  # fmt: skip
    profile = [{"part": "profile", "model": "m", "kind": "cross", "bin": i, "value": 0.5 + i / 31} for i in range(32)]
    return pd.DataFrame([*rows, *profile])


def test_findings_say_what_the_table_says() -> None:
    found = findings(frame())
    assert [f.holds for f in found] == [True] * 4
    assert "AUC 0.600; decoupled: needed cell highest 25.0%, in the highest ninth 50.0%, AUC 0.900" in found[0].numbers
    assert "second half 1.26 of even" in found[1].numbers and "(0.464 to 0.536)" in found[3].numbers


def test_findings_can_fail() -> None:
    other = frame(decoupled=0.5, cls=0.6)
    other.loc[other.part == "profile", "value"] *= -1
    other.loc[other.kind == "cls", "change"] = 1e-3
    assert [f.holds for f in findings(other)] == [False] * 4
    missing = pd.DataFrame([{"part": "skipped", "model": "m", "kind": "decoupled", "reason": "no text"}])
    first, *_ = findings(pd.concat([frame()[lambda f: ~f.kind.isin(["vanilla", "decoupled"])], missing]))
    assert first.holds is None and "no text" in first.numbers


def test_wrong_input_gets_a_line() -> None:
    with pytest.raises(InputError, match="unknown map 'clss'; known: cls, cross"):
        measure(ask(kinds=("clss",)))
    with pytest.raises(InputError, match="no model is called nothing"):
        measure(ask(models=("nothing",)))
