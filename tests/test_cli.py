"""The command line: exit codes, one line per mistake, what is printed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import main
from harness.cli_tables import EPILOGS
from tests.runs.fake import FakeBackend

ROOT = Path(__file__).parents[1]


@pytest.fixture
def vtpbench(tmp_path, capsys):
    """Run a command with a fake engine in an empty folder: exit code, standard output, standard error."""

    def command(*arguments, backend=None):
        if arguments[0] in ("run", "plan"):
            arguments += (f"paths.results={tmp_path}/out", "executor.gpus=none", "benchmark.size=40")
        code = main(arguments, backend or FakeBackend())
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return command


def test_run_then_status_plan_table_and_diff(vtpbench, tmp_path):
    code, _, err = vtpbench("run", "-m", "pruner=none,fastv", "limit=8", "benchmark=glyph_walk")
    assert code == 0 and "2 of 2 cells done, 0 skipped" in err and "[2/2] tiny_qwen3_vl/glyph_walk/fastv@0.333/" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
    code, out, _ = vtpbench("status", f"paths.results={tmp_path}/out")
    assert code == 0 and out.count("complete") == 2
    code, out, _ = vtpbench("plan", "pruner=none,stride", "limit=8", "benchmark=glyph_walk")
    assert code == 0 and "2 cells, 8 samples to run, " in out and "about 2 s for 2 cells" in " ".join(out.split())
    for kind in ("md", "csv", "tex"):
        code, _, _ = vtpbench("table", f"paths.results={tmp_path}/out", f"to={tmp_path}/board.{kind}")
        assert code == 0 and "fastv" in (tmp_path / f"board.{kind}").read_text()
    code, out, _ = vtpbench("table", f"paths.results={tmp_path}/out", "to=md")
    assert code == 0 and out.count("|") > 20
    cells = sorted(str(p.parent) for p in tmp_path.glob("out/runs/*/*/*/*/summary.json"))
    code, out, _ = vtpbench("diff", *cells)
    assert code == 0 and "pruner.name: fastv | none" in out


def test_failures_decide_the_exit_code(vtpbench):
    code, _, err = vtpbench("run", "limit=4", backend=FakeBackend(breaks_at=2))
    assert code == 1 and "RuntimeError: the engine is broken" in err
    failing = frozenset(f"{i:05d}" for i in range(40))
    code, _, err = vtpbench("run", "limit=4", "resume=fresh", backend=FakeBackend(failing=failing))
    assert code == 1 and "100.0 % of its samples failed" in err


def test_skipped_cells_are_listed(vtpbench):
    code, _, err = vtpbench("run", "pruner=fastv", "pruner.layer=2,99", "limit=2")
    assert code == 0 and "skipped tiny_qwen3_vl/glyph_lookup/fastv: layer 99 does not fit" in err
    assert "1 of 1 cells done, 1 skipped" in err


def experiment(folder, text):
    """The option that names a folder with an experiment `mine`."""
    (folder / "experiment").mkdir()
    (folder / "experiment" / "mine.yaml").write_text(text)
    return f"--config-dir={folder}"


def test_many_skipped_cells_are_said_by_reason(vtpbench, tmp_path):
    mine = experiment(tmp_path, "cells: [{pruner: [none, a, b, c, d, e, f], keep: [0.5, 0.25]}]")
    code, _, err = vtpbench("plan", "experiment=mine", mine, "limit=2")
    assert code == 0 and err == "skipped 12 cells: no pruner a, b, c, d, e, f here\n"
    code, _, err = vtpbench("plan", "experiment=mine", mine, "limit=2", "--skipped")
    assert code == 0 and err.count("skipped tiny_qwen3_vl/glyph_lookup/b: no pruner 'b' here\n") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "pruner=nope"], "unknown pruner 'nope'; known: blind, "),
        (["run", "keep=2"], "keep must lie in (0, 1], got 2"),
        (["run", "keep=[0.5,0.3]"], "keep must be a number or null, got [0.5, 0.3]"),
        (["run", "pruner=mustdrop", "pruner.thresholds=[1,1,1]"], "thresholds= are two"),
        (["fit", "pruner=fastv", "limit=1"], "FastV has nothing that is fitted"),
        (["run", "keep=0.5", "tokens=4"], "give keep= or tokens=, not both"),
        (["run", "pruner=fastv", "pruner.layer=99"], "layer 99 does not fit a model of 4 layers"),
        (["run", "shard=2/2"], "shard must be i/n"),
        (["run", "quickstart"], "expected key=value, got 'quickstart'; did you mean experiment=quickstart?"),
        (["run", "experiment=quickstart", "keep=half"], "keep must be a number, got 'half'"),
        (["run", "pruner=fastv,,random"], "cannot read pruner=fastv,,random: extraneous input ','\n"),
        (["run", "executor.gpus=7"], "executor.gpus must be all, none or numbers of GPUs"),
        (["run", "--config-dir", "/nope"], "--config-dir /nope is not a folder"),
        (["list", "nope"], "unknown group 'nope'; known: addon, "),
        (["status", "paths.results=/nope"], "no runs under /nope/runs"),
        (["table", "paths.results=/nope"], "no runs under /nope/runs"),
        (["table", "by=x"], "unknown key by; known: against, "),
        (["table", "margin=wide"], "margin must be a number"),
        (["published", "fastv", "llava_1_5_7b", "gqa"], "benchmark= takes a benchmark"),
        (["published", "benchmark="], "no published benchmark is called ''"),
        (["reproduce", "desap_efficiency,nope"], "unknown experiment 'nope'; known: "),
        (["diff", "/nope"], "diff needs two cell folders"),
        (["diff", "/nope", "/nope"], "/nope is not the folder of a cell"),
    ],
)
def test_bad_input_is_one_line_and_code_2(arguments, message, capsys):
    assert main(arguments, FakeBackend()) == 2
    err = capsys.readouterr().err
    assert message in err and err.startswith("vtpbench: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cells: [", "expected the node content, but found '<stream end>'"),
        ("cells: []", "nothing to run: no cells in mine"),
        ("cells: [{pruner: fastv, tokens: many}]", "tokens must be a number, got 'many'"),
        ("published: {paper: dstp}\ncells: [{model: qwen3_vl_4b}]", "benchmark= is missing in a cell with published"),
    ],
)
def test_a_damaged_experiment_is_one_line_and_code_2(text, message, tmp_path, capsys):
    assert main(["run", "experiment=mine", experiment(tmp_path, text)], FakeBackend()) == 2
    err = capsys.readouterr().err
    assert message in err and err.startswith("vtpbench: ") and err.count("\n") == 1


def test_experiments_are_named_in_three_ways(tmp_path, capsys):
    printed = set()
    for words in (["dstp_efficiency", "desap_efficiency"], ["dstp_efficiency,desap_efficiency"],
                  ["experiment=dstp_efficiency,desap_efficiency"]):  # fmt: skip
        assert main(["reproduce", *words, f"paths.results={tmp_path}"]) == 0
        printed.add(capsys.readouterr().out)
    assert len(printed) == 1 and "vtpbench reproduce dstp_efficiency desap_efficiency" in printed.pop()


@pytest.mark.parametrize("verb", EPILOGS)
def test_help_lists_every_key_that_is_taken(verb, capsys):
    assert main([verb, "no=1"]) == 2
    known = capsys.readouterr().err.partition("known: ")[2].strip().split(", ")
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    lines = capsys.readouterr().out.splitlines()
    for key in known:
        assert any(line.startswith(f"  {key}= ") for line in lines), key


def test_results_folder_not_writable(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["run", "executor.gpus=none", f"paths.results={tmp_path}/file/results"], FakeBackend()) == 2
    assert "is not writable: Not a directory" in capsys.readouterr().err


def test_options_and_overrides_mix(tmp_path, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("# Mine.\npath: /x\nfamily: qwen3_vl\n")
    assert main(["list", "--config-dir", str(tmp_path), "model"]) == 0
    assert "mine" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        main(["run", "--nope"])
    assert caught.value.code == 2


def harness(*arguments, **environment):
    command = [sys.executable, "-m", "harness", *arguments]
    env = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


def test_help_and_list_need_no_torch():
    assert "key=value" in harness("run", "--help").stdout
    code = "import sys; from harness.cli import main; main(['list']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("qwen3_vl_4b_thinking", "fastv", "glyph_walk", "quickstart", "vtp", "wandb"):
        assert f"  {name} " in done.stdout


@pytest.mark.parametrize("words", [["list"], ["table", "--help"], ["published", "fastv"], ["published", "to=md"]])
def test_a_closed_pipe_ends_quietly(words):
    end, pipe = os.pipe()
    os.close(end)
    command, env = [sys.executable, "-m", "harness", *words], {**os.environ, "PYTHONUNBUFFERED": ""}
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(pipe)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_unreachable_hub_is_one_line():
    done = harness("run", "model=qwen3_vl_4b", "model.path=nobody/nothing", HF_HUB_OFFLINE="1")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("vtpbench: ") and "nobody/nothing" in line and "model.path=" in line
