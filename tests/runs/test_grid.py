"""From a command line to cells: spans, experiments, duplicates, senseless cells, bad input."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness.runs.compose import Configs, compose_all
from harness.runs.errors import InputError


def names(found: object) -> list[str]:
    return [cell.name.split("/")[2] for cell in found.cells]  # type: ignore[attr-defined]


def test_commas_ranges_and_globs_span_a_grid(plan):
    assert names(plan("pruner=random,fastv", "keep=1/3,0.5")) == ["random@0.333", "random@0.5", "fastv@0.333",
                                                                  "fastv@0.5"]  # fmt: skip
    assert names(plan("pruner=fastv", "pruner.layer=range(1,4)")) == ["fastv@0.333"] * 3
    assert names(plan("pruner=glob([blind,str*])")) == ["blind", "stride@0.333"]
    assert names(plan("pruner=pool", "tokens=16")) == ["pool@16t"]


def test_equal_cells_run_once(plan):
    assert names(plan("pruner=none,blind,oracle", "keep=1/3,1/9", "seed=0,1")) == ["none", "blind", "oracle"]
    assert len(plan("pruner=none", "protocol.temperature=0.7", "seed=0,1").cells) == 2
    assert len(plan("pruner=fastv", "pruner.layer=2,2/4,2/32").cells) == 3  # written differently, kept apart


def test_quickstart_has_every_method_at_both_budgets_on_both_benchmarks(plan):
    cells = plan("experiment=quickstart").cells
    assert len(cells) == 18
    assert {cell.config.limit for cell in cells} == {200}
    assert len(plan("experiment=quickstart", "benchmark=glyph_walk", "keep=0.5").cells) == 6


@pytest.mark.parametrize("name", ["quickstart", "tiny_decode"])  # those of papers: test_experiments.py
def test_experiments_without_a_paper_compose(name):
    assert compose_all([f"experiment={name}"], Configs.find())


def test_every_option_of_every_group_says_what_it_is():
    configs = Configs.find()
    for group in configs.groups():
        for file in configs.options(group).values():
            assert file.read_text().startswith("# "), file


def test_a_layer_that_one_method_lacks_skips_that_cell_alone(plan):
    found = plan("pruner=fastv", "pruner.layer=2,9")
    assert len(found.cells) == 1
    assert found.skipped == [("tiny_qwen3_vl/glyph_lookup/fastv", "layer 9 does not fit a model of 4 layers (1 to 3)")]


def test_full_model_with_an_add_on_is_skipped(plan, monkeypatch, tmp_path):
    (tmp_path / "addon").mkdir()
    (tmp_path / "addons_of_mine.py").write_text(ADDON)
    (tmp_path / "addon" / "wrap.yaml").write_text("# Wraps.\n_target_: addons_of_mine.Wrap\n")
    monkeypatch.syspath_prepend(tmp_path)
    from harness.runs.cells import Resolver
    from tests.runs.fake import FakeBackend

    arguments = ["allow=addons_of_mine", "addon=none,wrap", "pruner=none,stride,blind", "executor.gpus=none"]
    found = Resolver(FakeBackend()).plan(compose_all(arguments, Configs.find([str(tmp_path)])))
    assert names(found) == ["none", "stride@0.333", "blind", "stride@0.333+wrap"]
    assert [reason for _, reason in found.skipped] == [
        "an add-on needs a method that drops tokens", "Blind leaves nothing"
    ]  # fmt: skip
    sys.modules.pop("addons_of_mine")


ADDON = """
from dataclasses import dataclass
from pruners import Blind, Pruner, PrunerError

@dataclass(frozen=True, kw_only=True)
class Wrap(Pruner):
    base: Pruner

    def check(self, model):
        if isinstance(self.base, Blind):
            raise PrunerError("Blind leaves nothing")
"""


def test_a_method_of_ones_own(plan, monkeypatch, tmp_path):
    (tmp_path / "method_of_mine.py").write_text(METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    (cell,) = plan("pruner._target_=method_of_mine.Mine", "pruner.alpha=0.25", "keep=1/9").cells
    assert cell.name.split("/")[2] == "Mine@0.111"
    assert cell.pruner.alpha == 0.25  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"unknown key pruner.beta; known: alpha, keep, tokens"):
        plan("pruner._target_=method_of_mine.Mine", "pruner.beta=1")
    with pytest.raises(InputError, match=r"pruner.alpha must be a number, got 'high'"):
        plan("pruner._target_=method_of_mine.Mine", "pruner.alpha=high")


METHOD = """
from dataclasses import dataclass
from pruners import Budgeted

@dataclass(frozen=True, kw_only=True)
class Mine(Budgeted):
    alpha: float = 0.5
"""


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=nope"], "unknown model 'nope'; known: internvl3_5_14b, "),
        (["pruner=nope"], "unknown pruner 'nope'; known: blind, "),
        (["benchmark=nope"], "unknown benchmark 'nope'; known: ai2d, "),
        (["experiment=nope"], "unknown experiment 'nope'; known: "),
        (["keep=0", "pruner=fastv"], r"keep must lie in \(0, 1\], got 0"),
        (["keep=1.5"], r"keep must lie in \(0, 1\], got 1.5"),
        (["pruner=fastv", "pruner.keep=7"], r"fastv: keep must lie in \(0, 1\], got 7"),
        (["keep=0.5", "tokens=8"], "give keep= or tokens=, not both"),
        (["keep=0.5", "pruner=fastv", "pruner.keep=0.2"], "keep=0.5 and pruner.keep=0.2 contradict"),
        (["tokens=0"], "tokens must be at least 1"),
        (["limit=few"], "limit must be a whole number or null, got 'few'"),
        (["limt=8"], "unknown key limt; known: addon, "),
        (["engine.slot=1"], "unknown key engine.slot; known: ahead, attention, "),
        (["pruner=fastv", "pruner.layers=2"], "unknown key pruner.layers; known: keep, layer, tokens"),
        (["pruner=fastv", "pruner.layer=9"], "nothing to run: .*layer 9 does not fit a model of 4 layers"),
        (["pruner=fastv", "pruner.layer=two"], "nothing to run: .*layer must be a number or a depth fraction"),
        (["pruner._target_=os.nope"], "pruner._target_=os.nope cannot be imported"),
        (["pruner._target_=harness.engine.trace.Trace"], "is not a pruners.Pruner"),
        (["benchmark.task=dance"], "benchmark.task must be lookup or walk, got 'dance'"),
        (["benchmark.size=0"], "glyph_lookup: size must be at least 1"),
        (["subset.mode=last"], "subset.mode must be first or stratified"),
        (["pruner"], "expected key=value, got 'pruner'"),
        (["keep=[1"], r"cannot read keep=\[1"),
        (["repeats=2"], "repeats= needs protocol.temperature > 0"),
        (["resume=fresh", "shard=0/2"], "resume=fresh with shard="),
        (["protocol.top_p=2"], "protocol: needs temperature"),
    ],
)
def test_bad_input_is_one_line(plan, overrides, message):
    with pytest.raises(InputError, match=message) as caught:
        plan(*overrides)
    assert "\n" not in str(caught.value)


def test_user_folder_adds_options(tmp_path: Path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("# Mine.\npath: /somewhere\nfamily: qwen3_vl\n")
    (composed,) = compose_all(["model=mine"], Configs.find([str(tmp_path)]))
    assert composed.values["model"] == {"path": "/somewhere", "family": "qwen3_vl"}
    with pytest.raises(InputError, match="is not a folder"):
        Configs.find([str(tmp_path / "nope")])
