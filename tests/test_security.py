"""Nothing in data, configuration files or stored runs is run, leaves its folder or acts on a terminal or a page."""

from __future__ import annotations

import ast
import io
import json
import pickle
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from rich.console import Console

from harness.benchmarks.judge.local import HFLocal
from harness.benchmarks.scoring.verdict import JudgeUnavailable
from harness.cli import main
from harness.models import load_model
from harness.models.base import ModelUnavailable
from harness.models.loading import TINY
from harness.runs.log import LOADER
from harness.runs.progress import Display
from harness.runs.trusted import shown
from harness.tables import leaderboard
from harness.tables.render import csv, tame
from tests.benchmarks.judge_server import Answer, completion, serve
from tests.runs.fake import FakeBackend
from tests.runs.test_judged_runs import KEY, base, data, judge  # noqa: F401 (fixtures)

ROOT = Path(__file__).parents[1]
GRID = ["executor.gpus=none", "benchmark=glyph_walk", "benchmark.size=40", "limit=2"]
NAME = "\x1b[31m[red]<script>alert(1)</script>|=1+1\u202e](https://x)"


def option(folder: Path, group: str, text: str) -> str:
    """The option `mine` of a group; returns the folder's argument."""
    (folder / group).mkdir(exist_ok=True)
    (folder / group / "mine.yaml").write_text(text)
    return f"--config-dir={folder}"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Somebody's package with a method; importing it leaves a file behind."""
    (tmp_path / "theirs.py").write_text(
        f"from pathlib import Path\nfrom pruners import NoPruning\nPath({str(tmp_path / 'imported')!r}).touch()\n"
        "class Mine(NoPruning):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    return "theirs.Mine"


@pytest.mark.parametrize(
    ("group", "text"),
    [
        ("pruner", "_target_: theirs.Mine\n"),
        ("pruner", "_target_: pruners.Pipeline\nmethods: [{_target_: theirs.Mine}]\n"),
        ("experiment", "cells: [{pruner._target_: theirs.Mine}]\n"),
        ("experiment", "cells: [{pruner: fastv, addon._target_: theirs.Mine}]\n"),
    ],
)
def test_files_name_no_foreign_classes(group, text, package, tmp_path, capsys):
    command = ["run", f"{group}=mine", option(tmp_path, group, text), *GRID, f"paths.results={tmp_path}/out"]
    assert main(command, FakeBackend()) == 2
    err = capsys.readouterr().err
    assert "theirs.Mine stands in a configuration file" in err and "allow=theirs" in err and err.count("\n") == 1
    assert not (tmp_path / "imported").exists()
    main([*command, "allow=[other,theirs]"], FakeBackend())
    assert (tmp_path / "imported").exists()


def test_a_class_that_is_typed_is_allowed(package, tmp_path):
    assert main(["run", f"pruner._target_={package}", *GRID, f"paths.results={tmp_path}/out"], FakeBackend()) == 0
    assert (tmp_path / "imported").exists()


def test_neither_lists_nor_exports_import_foreign_classes(package, tmp_path, capsys):
    assert main(["list", "pruners", option(tmp_path, "pruner", f"_target_: {package}\n")]) == 0
    assert "theirs.Mine stands in a configuration file" in capsys.readouterr().out
    assert main(["run", *GRID, f"paths.results={tmp_path}/out"], FakeBackend()) == 0
    (file,) = tmp_path.glob("out/runs/*/*/*/*/config.yaml")
    config = yaml.safe_load(file.read_text())
    config["benchmark"]["_target_"] = package
    file.write_text(yaml.safe_dump(config))
    assert main(["export", str(file.parent), "to=lmms_eval", f"out={tmp_path}/export"]) == 2
    assert not (tmp_path / "imported").exists()


def test_files_do_not_read_the_environment(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    for group, text in (
        ("protocol", "version: 1\nsystem: ${oc.env:JUDGE_KEY}\n"),
        ("experiment", "cells: [{protocol.system: '${oc.env:JUDGE_KEY}'}]\n"),
    ):
        folder = tmp_path / group
        folder.mkdir()
        command = ["run", f"{group}=mine", option(folder, group, text), *GRID, f"paths.results={tmp_path}/out"]
        assert main(command, FakeBackend()) == 2
        err = capsys.readouterr().err
        assert "oc.env" in err and KEY not in err


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "..", "a/b", "a\\\\b", "'a\\nb'", "x" * 300, "''"])
def test_names_are_one_folder(name, tmp_path, capsys):
    results = tmp_path / "a" / "b"
    where = option(tmp_path, "model", f"name: {name}\npath: builtin:qwen3_vl\nfamily: qwen3_vl\n".replace("'", '"'))
    assert main(["run", "model=mine", where, *GRID, f"paths.results={results}"], FakeBackend()) == 2
    err = capsys.readouterr().err
    assert "model.name must be a short name" in err and err.count("\n") == 1
    assert not results.exists() and not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("sample", ["../../../evil", "/tmp/evil", "a\0b", "a\nb", "x" * 5000, "..", NAME])
def test_ids_and_categories_name_no_files(sample, base, data, tmp_path, capsys):  # noqa: F811
    frame = pd.read_parquet(data / "testmini.parquet")
    frame["sample_index"] = [f"{sample}{i}" for i in range(len(frame))]
    frame["metadata"] = [{**row, "subject": sample, "source": sample} for row in frame["metadata"]]
    frame.to_parquet(data / "testmini.parquet")
    assert main(["run", *base, "record=kept"], FakeBackend()) == 0
    (cell,) = tmp_path.glob("out/runs/*/*/*/*")
    for command in (["status", f"paths.results={tmp_path}/out"], ["diff", str(cell), str(cell)],
                    ["export", str(cell), "to=vlmevalkit", f"out={tmp_path}/out/export"]):  # fmt: skip
        main(command)
    assert not [file for file in tmp_path.rglob("*") if "evil" in file.name or "xxx" in file.name]
    assert {file.name for file in tmp_path.iterdir()} <= {"out", "data", "cache"}
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err and "Traceback" not in printed.err


def test_tables_escape_what_they_print(tmp_path):
    assert main(["run", "pruner=none,fastv", *GRID, f"paths.results={tmp_path}/out"], FakeBackend()) == 0
    for file in tmp_path.glob("out/runs/*/*/*/*/config.yaml"):
        config = yaml.safe_load(file.read_text())
        config["model"]["name"] = NAME
        config["protocol"]["assumed"] = [NAME]
        file.write_text(yaml.safe_dump(config))
    board = leaderboard(tmp_path / "out")
    page, latex = board.to_markdown(), board.to_latex()
    assert "<script" not in page and "&lt;script" in page and "](" not in page and r"\x1b" in page
    assert r"\textbackslash{}x1b" in latex
    printed = io.StringIO()
    board.print(Console(file=printed, force_terminal=True, width=200))
    assert "[red]<script>" in printed.getvalue() and r"\x1b[31m" in printed.getvalue()
    assert "\x1b[31m" not in printed.getvalue()
    for text in (page, latex, printed.getvalue(), board.to_csv()):
        assert "\u202e" not in text or text == board.to_csv()


def test_formulas_are_texts_in_csv():
    texts = ["=1+1", "@sum", "+cmd", "-1+1", "\tx", "-", "-1.5", "+2e-3", "fastv"]
    made = csv(pd.DataFrame({"name": texts, "number": [-1.5] * len(texts)}))
    read = pd.read_csv(io.StringIO(made), dtype=str)
    assert list(read.name) == ["'=1+1", "'@sum", "'+cmd", "'-1+1", "'\tx", "-", "-1.5", "+2e-3", "fastv"]
    assert set(read.number) == {"-1.5"}


def test_brackets_are_no_markup_on_the_progress_bar():
    out = io.StringIO()
    name = "model/[red]bench/method/greedy"
    with Display([name], Console(file=out, force_terminal=True, highlight=False, width=200)) as display:
        display.start(name, 0, 1)
        display.advance(name, None)
        display.say("[bold]said\x1b[2J")
    assert "[red]bench/method" in out.getvalue() and r"[bold]said\x1b[2J" in out.getvalue()


def test_shown_and_tame():
    assert shown("grün ✓ 図") == "grün ✓ 図" and shown("a\nb\x1b\u202e\ud800") == r"a\nb\x1b\u202e\ud800"
    assert tame("p < 0.05, <b>, [a](b)") == "p < 0.05, &lt;b>, [a]\\(b)"


def test_a_key_is_nowhere_after_a_judged_run(base, tmp_path, capsys):  # noqa: F811
    said = completion("1")
    said["model"] = f"judge {KEY}"
    with serve(lambda calls: Answer(said if len(calls) % 2 else {"error": {"message": KEY}}, 200)) as (url, calls):
        for command in (["plan", *base], ["run", *base, "logger=csv", "resume=fresh"], ["run", *base]):
            assert main([*command, *judge(url)], FakeBackend()) in (0, 1)
        (cell,) = tmp_path.glob("out/runs/*/*/*/*")
        main(["score", str(cell), *judge(url)])
        main(["run", *base, "judge=openai_compatible", f"judge.key_env={KEY}"], FakeBackend())
        main(["run", *base, "judge=openai_compatible", f"judge.base_url=http://a:{KEY}@b/v1"], FakeBackend())
        assert calls and all(KEY in call.headers["authorization"] for call in calls)
    for command in (["status"], ["table"], ["table", f"to={tmp_path}/out/t.csv"], ["table", "to=md"]):
        main([*command, f"paths.results={tmp_path}/out"])
    printed = capsys.readouterr()
    assert KEY not in printed.out + printed.err
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 8 and not [file for file in files if KEY.encode() in file.read_bytes()]


def brought(folder: Path, **config: object) -> Path:
    """A tiny model whose repository brings code that leaves a file behind."""
    shutil.copytree(TINY / "qwen3_vl", folder)
    code = f"from pathlib import Path\nPath({str(folder.parent / 'ran')!r}).touch()\n"
    (folder / "code.py").write_text(code + "class C: pass\n")
    plain = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**plain, **config}))
    return folder


def test_code_of_repositories_never_runs(tmp_path):
    classes = {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.C", "AutoModelForImageTextToText": "code.C"}
    folder = brought(tmp_path / "model", model_type="theirs", auto_map=classes)
    with pytest.raises(ModelUnavailable, match=r"needs code of its own \(trust_remote_code\), and no option here runs"):
        load_model(str(folder), family="qwen3_vl")
    with pytest.raises(JudgeUnavailable, match="trust_remote_code"):
        HFLocal(path=str(folder))("?")
    assert not (tmp_path / "ran").exists()


def test_weights_in_pickles_are_refused(tmp_path):
    folder = brought(tmp_path / "model")
    (folder / "model.safetensors").unlink()

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"x": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(ModelUnavailable, match="safetensors"):
        load_model(str(folder), family="qwen3_vl")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ModelUnavailable):
        load_model(str(folder), family="qwen3_vl")
    assert not (tmp_path / "ran").exists()


UNSAFE = ("eval", "exec", "compile", "os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load")
PICKLES = ("pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib")


def unsafe(tree: ast.AST) -> list[str]:
    """Imports and calls that can turn data into code."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [name for name in names if name.partition(".")[0] in PICKLES]
        if isinstance(node, ast.Call):
            name, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            loader = ast.unparse(node.args[1]) if len(node.args) > 1 else given.get("Loader", "")
            bad = name in UNSAFE or (name == "torch.load" and given.get("weights_only") != "True")
            bad |= name == "yaml.load" and not ("Safe" in loader or loader == "LOADER")
            bad |= name in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False"
            bad |= given.get("trust_remote_code", "False") != "False" or given.get("shell", "False") != "False"
            found += [ast.unparse(node)] if bad else []
    return found


def test_product_code_makes_no_code_of_data():
    assert issubclass(LOADER, yaml.SafeLoader) or LOADER is yaml.CSafeLoader
    for text in ("import pickle", "torch.load(f)", "yaml.load(f, yaml.Loader)", "np.load(f, allow_pickle=True)",
                 "eval(x)", "load(p, trust_remote_code=True)", "run(x, shell=True)"):  # fmt: skip
        assert unsafe(ast.parse(text)), text
    files = [file for folder in ("harness", "pruners", "scripts") for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 200
    assert not {str(file): bad for file in files if (bad := unsafe(ast.parse(file.read_text())))}


def test_shipped_configurations_name_our_classes_alone():
    for file in (ROOT / "conf").rglob("*.yaml"):
        for line in file.read_text().splitlines():
            if "_target_:" in line and "null" not in line:
                assert line.partition("_target_:")[2].strip().split(".")[0] in ("harness", "pruners"), file
