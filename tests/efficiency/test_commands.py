"""`vtpbench efficiency` and scripts/gpu_check.py, as they are typed."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.cli_efficiency import KEYS, grouped
from harness.runs.compose import Configs, compose_all
from pruners import VisionPulse

Run = Callable[..., tuple[int, str, str]]
TINY = ["slots=2", "new_tokens=3", "text_tokens=20"]
GPU_CHECK = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "gpu_check.py"))


@pytest.fixture
def efficiency(capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code, standard output, standard error."""

    def command(*arguments: str) -> tuple[int, str, str]:
        code = main(["efficiency", *arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return command


def test_values_with_commas_make_a_table_each(efficiency: Run, tmp_path: Path) -> None:
    """Methods stand beside each other, and a method's budgets too; none is always there, once."""
    grid = ["model=tiny_qwen3_vl", "pruner=none,fastv,desap", "keep=1/2,1/4", "visual_tokens=64,128", *TINY]
    code, out, err = efficiency(*grid, f"to={tmp_path}/sub/found.json")
    assert (code, out, err) == (0, "", "")
    tables = json.loads((tmp_path / "sub" / "found.json").read_text())
    assert [table["methods"][0]["setting"]["visual_tokens"] for table in tables] == [64, 128]
    for table in tables:
        assert [method["method"] for method in table["methods"]] == ["none", "fastv@1/2", "fastv@1/4"]
        assert table["left"]["desap@1/2"] == "builtin:qwen3_vl has a tower without CLIP text"
        visible = [method["kv_bytes"]["visible"] for method in table["methods"]]
        assert visible == sorted(visible, reverse=True) and len(set(visible)) == 3


def test_weights_may_be_trained_ones(efficiency: Run) -> None:
    code, out, _ = efficiency(
        "model=tiny_llava", "pruner=fastv", "addon=dstp", "visual_tokens=64", "weights=trained", *TINY
    )
    assert code == 0 and "tiny_llava (trained weights): 64 visual + 20 text tokens, 3 new, 2 at a time" in out
    assert "fastv+dstp" in out and "not measured" in out and "unknown" in out


def test_full_size_costs_alone(efficiency: Run) -> None:
    """Of VisionPulse's latency table, at the first of its lengths and with few steps."""
    short = ["new_tokens=2", "visual_tokens=8192", "device=meta", "to=md"]
    code, out, _ = efficiency("experiment=visionpulse_latency", *short)
    assert (
        code == 0 and "qwen3_vl_4b_thinking (random weights): 8192 visual + 256 text tokens, 2 new, 8 at a time" in out
    )
    assert "| slots in 80 GiB | 49 | 49 |" in out and "decode step" not in out
    assert "counted as if it showed everything" in out


def test_latency_experiment() -> None:
    """8k, 16k and 32k visual tokens, 256 of text, 1,024 steps, batches of 8; VisionPulse beside the unpruned model."""
    found = grouped(compose_all(["experiment=visionpulse_latency"], Configs.find()))
    settings = [asked.setting() for _, asked in found]
    assert [s.visual_tokens for s in settings] == [8192, 16384, 32768]
    assert {(s.text_tokens, s.new_tokens, s.slots) for s in settings} == {(256, 1024, 8)}
    for methods in found.values():
        assert [*methods.values()] == [VisionPulse(block=64)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["visual_tokens=64", "model=nope"], "unknown model 'nope'"),
        (["visual_tokens=64", "pruner=nope"], "unknown pruner 'nope'"),
        (["visual_tokens=0"], "visual_tokens must be a whole number of at least 1, got 0"),
        (["visual_tokens=64", "slots=0"], "slots must be a whole number of at least 1, got 0"),
        (["visual_tokens=64", "new_tokens=-3"], "new_tokens must be a whole number of at least 1, got -3"),
        (["visual_tokens=many"], "visual_tokens must be a whole number, got 'many'"),
        (["pruner=fastv"], "visual_tokens= is missing"),
        (["visual_tokens=64", "limit=3"], "unknown key limit; known: "),
        (["visual_tokens=64", "model.foo=3"], "unknown key model.foo"),
        (["visual_tokens=64", "pruner=fastv", "pruner.layer=99"], "layer 99 does not fit"),
        (["visual_tokens=64", "pruner=fastv", "keep=2"], "keep must lie in (0, 1], got 2.0"),
        (["visual_tokens=64", "pruner=desap"], "desap: builtin:qwen3_vl has a tower without CLIP text"),
        (["visual_tokens=64", "addon=dstp"], "an add-on needs a method that drops tokens"),
        (["visual_tokens=64,100", "model=tiny_llava"], "visual_tokens must be a multiple of 64, such as 64 or 128"),
        (["visual_tokens=64", "device=tpu"], "device must be auto, cpu, meta (costs alone), or cuda"),
        (["visual_tokens=64", "device=meta", "weights=trained"], "device=meta has no values"),
        (["visual_tokens=64", "weights=heavy"], "weights must be random or trained, got 'heavy'"),
        (["visual_tokens=64", "to=found.pdf"], "to= must be md, json, txt, or a file with such an ending"),
        (["visual_tokens=64", "to=/proc/x/found.md"], "cannot write /proc/x/found.md"),
        (["visual_tokens=32768", "slots=4096", "model=qwen3_vl_4b", "device=cpu"], "do not fit into the"),
        (["fastv"], "expected key=value, got 'fastv'"),
    ],
)  # fmt: skip
def test_mistakes_take_one_line(efficiency: Run, arguments: list[str], said: str) -> None:
    code, out, err = efficiency(*arguments)
    assert code == 2 and not out and said in err
    assert err.startswith("vtpbench: ") and err.count("\n") == 1


def test_help_names_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["efficiency", "--help"])
    out = capsys.readouterr().out
    assert all(f"  {key}=" in out for key in KEYS) and "experiment=visionpulse_latency" in out


def test_gpu_check_with_tiny_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All of its code but the compiler; what a CPU measures stays out of results/."""
    check: Any = GPU_CHECK["main"]
    arguments = ["--tiny", "--device", "cpu", "--plain", "--new", "4", "--text", "20"]
    assert check([*arguments, "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.count("100.0 % of the tokens agree: right") == 3 and "WRONG" not in out
    names = {path.name for path in tmp_path.iterdir()}
    tables = ["qwen3_vl_4b_64x1", "qwen3_vl_4b_128x8", "internvl3_5_8b_64x8", "llava_1_5_7b_64x8"]
    assert names == {f"{name}_plain.{kind}" for name in tables for kind in ("md", "json")} | {"steps_plain.json"}
    (llava,) = json.loads((tmp_path / "llava_1_5_7b_64x8_plain.json").read_text())
    measured = {method["method"] for method in llava["methods"]} | {*llava["left"]}
    assert measured == {"none", *GPU_CHECK["methods"](0.5)} and "CPU" in llava["machine"]
    with pytest.raises(SystemExit):
        check(arguments)
    assert "only what a GPU measures belongs into results/efficiency" in capsys.readouterr().err


@pytest.mark.slow
def test_gpu_check_compiles(tmp_path: Path) -> None:
    """Compiled steps are those of the plain run for all three, and none of them falls back."""
    check: Any = GPU_CHECK["main"]
    assert check(["--tiny", "--device", "cpu", "--no-tables", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "steps.json").read_text())["checks"]
    assert [row["path"] for row in found] == ["compiled"] * 3


def test_gpu_check_tells_when_steps_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its exit code."""
    check: Any = GPU_CHECK["main"]
    monkeypatch.setitem(check.__globals__, "check", lambda *_: ([], False))
    assert check(["--tiny", "--device", "cpu", "--no-tables", "--out", str(tmp_path)]) == 1


def test_bookkeeping_is_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """scripts/bench_overhead.py, whose ways must agree on every token."""
    script = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "bench_overhead.py"))
    monkeypatch.setattr("sys.argv", ["bench_overhead.py", "--samples=2", "--rounds=1", "--json", "pruner=fastv"])
    script["main"]()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["samples"] == 2 and found["off_median"] > 0 and found["on_median"] > 0
