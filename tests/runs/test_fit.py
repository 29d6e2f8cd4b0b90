"""`vtpbench fit`: the file it writes, what runs make of it, and its mistakes in one line each."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from harness.benchmarks.base import Item, Scoring
from harness.benchmarks.glyph_tasks import Glyphs
from harness.cli import main
from harness.engine import Request
from harness.models import Model
from harness.runs.fit import ALPHAS, divergence, left, prefill, ready, withdrawals
from pruners import VTW, NoPruning
from tests.conftest import prompts
from tests.runs.fake import FakeBackend
from tests.tiny import stock, stock_inputs


def test_first_layer_against_the_stock_model(trained: Model) -> None:
    """What the first layer spares, from the attention that transformers reports."""
    request = prompts(2)[1]
    at = ready(trained, request)
    visual, length = at[1].visual, len(at[1].ids)
    reference = stock(trained)
    reference.set_attn_implementation("eager")
    with torch.inference_mode():
        out = reference(**stock_inputs(trained, at[1]), output_attentions=True)
    weights = out.attentions[0][0].double().amax(0)
    kinds = [
        weights[visual][:, visual].sum(0).tolist(),
        weights[int(visual[-1]) + 1 : length][:, visual].sum(0).tolist(),
    ]
    found = left(trained, at)
    for alpha, row in zip(ALPHAS, found, strict=True):
        spared = []
        for mass in kinds:
            rest, light = sum(mass), set()
            for j in sorted(range(len(mass)), key=lambda j: mass[j]):
                rest -= mass[j]
                if rest < (1 - alpha) * sum(mass):
                    break
                light.add(j)
            spared.append(light)
        assert (
            abs(row[1] * len(visual) - (len(visual) - len(spared[0] & spared[1]))) <= 1
        )  # float32 and float64 may part
        assert row[0] == 1 and row == sorted(row, reverse=True) and row[-1] > 0
    means = [sum(row) for row in found]
    assert means[0] == 4 and means[-1] < 2


def test_divergence(trained: Model) -> None:
    """KL(withdrawn || full) in nats, by hand."""
    item = Glyphs(task="lookup").item(0)
    at = ready(trained, Request(item.id, item.content))
    full, without = (prefill(trained, p, at).logits.tolist() for p in (NoPruning(), VTW(layer=1)))
    p, q = ([x - math.log(sum(math.exp(y) for y in row)) for x in row] for row in (without, full))
    (found,) = divergence(trained, at)
    assert found[1] == pytest.approx(sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True)), rel=1e-4)
    assert len(found) == 4 and found[3] < 1e-3 < found[2]


def test_fit_then_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A schedule from two samples has the mean that was asked for; VTW withdraws where pictures have been read."""
    file, out = tmp_path / "new" / "fit.json", f"paths.results={tmp_path}/out"
    assert main(["fit", "pruner=fitprune", "limit=2", f"out={file}", "executor.gpus=none"]) == 0
    printed = capsys.readouterr().out
    assert (
        "layer  keep=0.75  keep=0.5" in printed and "keep=0.111" not in printed and "keep= can be as low as" in printed
    )
    content = json.loads(file.read_text())
    assert (content["method"], content["depth"], content["samples"]) == ("FitPrune", 4, 2) and len(
        content["left"]
    ) == 50
    again = [f"pruner.fit={file}", "keep=0.5", "limit=2", "executor.gpus=none", out]
    assert main(["run", "pruner=fitprune", *again]) == 0
    (summary,) = (tmp_path / "out").glob("runs/*/*/fitprune@0.5/*/summary.json")
    assert 0.5 <= json.loads(summary.read_text())["ret_prefill"] < 0.5 + 1 / 64
    assert "fit.json" not in json.dumps(json.loads(summary.read_text())["cell"])
    capsys.readouterr()
    assert main(["fit", "pruner=vtw", "limit=2", "executor.gpus=none", "pruner.eta=0.1"]) == 0
    assert "pruner.layer=3 is the first with KL <= 0.1" in capsys.readouterr().out
    assert withdrawals(VTW(), [[0.0, 1.0, 0.5, 0.1]])[1] == "no layer has KL <= 0.003"


@dataclass(frozen=True)
class Words:
    """A benchmark without pictures."""

    name: str = "words"

    @property
    def scoring(self) -> Scoring:
        return Scoring("glyph_world.exact", "glyph_world.exact")

    def items(self) -> Sequence[Item]:
        return [Item(str(i), ("one and one?",), "2", str(i)) for i in range(3)]

    outlines = items

    def content_hash(self) -> str:
        return "words"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pruner=fastv"], "FastV has nothing that is fitted to a model; these have: FitPrune, VTW"),
        (["pruner=vtw", "addon=dstp"], "DSTP has nothing that is fitted"),
        (["pruner=none", "addon=dstp"], "an add-on needs a method that drops tokens"),
        (["pruner=nope"], "unknown pruner 'nope'; known: "),
        (["pruner=vtw,fitprune"], "fit takes one method, one model and one benchmark, got a grid of 2"),
        (["pruner=vtw", "limit=0"], "limit must be at least 1, got 0"),
        (["pruner=vtw", "out=/proc/no/file"], "cannot write /proc/no/file: "),
        (["pruner=vtw", "out=/tmp"], "cannot write /tmp: it is a folder"),
        (["pruner=vtw", "pruner.eta=-1"], "vtw: eta must be above 0"),
        (["fitprune"], "expected key=value, got 'fitprune'"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *arguments], FakeBackend()) == 2
    err = capsys.readouterr().err
    assert message in err and err.startswith("vtpbench: ") and err.count("\n") == 1


def test_without_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "benchmark").mkdir()
    (tmp_path / "benchmark" / "words.yaml").write_text(f"_target_: {Words.__module__}.Words\n")
    words = ["benchmark=words", "allow=tests", f"--config-dir={tmp_path}", "limit=2", "executor.gpus=none"]
    assert main(["fit", "pruner=vtw", *words]) == 2
    assert capsys.readouterr().err == "vtpbench: no pictures in 2 samples of words\n"
