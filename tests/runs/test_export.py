"""Replies in the formats of other kits: their columns and numbering, texts that stay texts, lmms-eval's own score."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import openpyxl
import pandas
import pyarrow
import pytest
import yaml
from lmms_eval.api.reasoning import strip_reasoning_tags
from pyarrow import parquet

from harness.benchmarks.data import Files, Source, locate
from harness.benchmarks.lmms_prompts import find
from harness.cli import main
from harness.runs.errors import InputError
from harness.runs.export import KITS, export
from harness.runs.export.vlmevalkit import write_tsv, write_xlsx
from harness.runs.log import read_log
from tests.benchmarks.parquet import LOCAL, ROOT, local, needs_schemas, write
from tests.runs.fake import FakeBackend

pytestmark = needs_schemas
Cells = Callable[..., Path]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cells:
    """The folder of a finished cell over small local data; `texts` replace its replies, by item."""

    def make(name: str, *overrides: str, texts: dict[str, str | None] | None = None) -> Path:
        data = local(tmp_path / "data" / name, name)
        if name == "dynamath":  # whose rule reads numbers
            ((file, kind, n, row),) = LOCAL[name]
            write(data / file, kind, [row(i) | {"ground_truth": "2.5"} for i in range(n)])
        results = tmp_path / "results" / str(len(list(tmp_path.glob("results/*"))))
        command = ["run", f"benchmark={name}", f"benchmark.data={data}", "pruner=fastv", "keep=1/3",
                   "executor.gpus=none", f"paths.results={results}", *overrides]  # fmt: skip
        assert main(command, FakeBackend()) == 0
        capsys.readouterr()
        (folder,) = (file.parent for file in results.glob("runs/*/*/*/*/config.yaml"))
        (log,) = folder.glob("samples-*.jsonl")
        records = [json.loads(line) for line in log.read_text().splitlines()]
        for record in records:
            text = (texts or {}).get(record["id"], record["text"])
            record |= {"text": text or "", "finish": record["finish"] if text is not None else "error"}
        log.write_text("".join(json.dumps(record) + "\n" for record in records))
        return folder

    return make


def written(folder: Path, to: str, out: Path, **options: Any) -> dict[str, Any]:
    (row,) = export([folder], to, out, **options)
    return row


def sheet(row: dict[str, Any]) -> pandas.DataFrame:
    """What a reader of the spreadsheet sees, everything as text; the .tsv beside it holds the same."""
    table = pandas.read_excel(row["file"], dtype=str, keep_default_na=False)
    beside = pandas.read_csv(row["file"].replace(".xlsx", ".tsv"), sep="\t", dtype=str, keep_default_na=False)
    pandas.testing.assert_frame_equal(table, beside)
    return table


# VLMEvalKit

DATASETS = {
    "mathverse": ("MathVerse_MINI", {"problem_version", "question_for_eval", "metadata", "question_type"}),
    "mathverse_cot": ("MathVerse_MINI_Vision_Only_cot", {"problem_version", "question_for_eval"}),
    "wemath": ("WeMath_COT", {"ID", "key", "knowledge concept", "split", "A", "B", "C", "D"}),
    "dynamath": ("DynaMath", {"answer_type", "subject", "knowledge_level", "varid", "qid"}),
    "logicvista": ("LogicVista", {"skill"}),
    "mmmu_pro_standard": ("MMMU_Pro_10c", {"A", "B", "subject"}),
    "mmmu_pro_standard_cot": ("MMMU_Pro_10c_COT", {"A", "B", "subject"}),
    "mmmu_pro_vision": ("MMMU_Pro_V", {"A", "B", "subject"}),
    "mmmu_pro_vision_cot": ("MMMU_Pro_V_COT", {"A", "B", "subject"}),
    "gqa": ("GQA_TestDev_Balanced", set()),
    "textvqa": ("TextVQA_VAL", set()),
    "pope": ("POPE", {"category"}),
    "scienceqa": ("ScienceQA_TEST", {"A", "B", "C", "hint", "category"}),
}  # fmt: skip


@pytest.mark.parametrize("benchmark", DATASETS)
def test_every_set_has_the_name_and_columns_of_the_kit(benchmark: str, run: Cells, tmp_path: Path) -> None:
    name = benchmark.removesuffix("_cot")
    more = [f"benchmark={benchmark}"] if name != benchmark else []
    more += ["benchmark.version=vision_only"] if benchmark == "mathverse_cot" else []
    more += ["benchmark.prompt=Answer"] if name == "mmmu_pro_vision" else []  # lmms-eval's takes long to make
    folder = run(name, *more)
    row = written(folder, "vlmevalkit", tmp_path / "out")
    dataset, columns = DATASETS[benchmark]
    assert Path(row["file"]).name.endswith(f"_{dataset}.xlsx") and Path(row["file"]).parent == tmp_path / "out"
    table, records = sheet(row), read_log(folder)
    assert {"index", "question", "answer", "prediction", *columns} <= set(table.columns)
    assert not {"image", "image_1", "image_path"} & set(table.columns) or name == "dynamath"  # a name there
    assert len(table) == len(records) == row["answers"] == row["of"] and not row["failed"]
    assert sorted(table["prediction"]) == sorted(record["text"] for record in records.values())
    assert table["index"].astype(int).is_monotonic_increasing and "from 0" in row["note"]


def test_answers_options_and_groups_are_as_the_kit_reads_them(run: Cells, tmp_path: Path) -> None:
    science = sheet(written(run("scienceqa"), "vlmevalkit", tmp_path))
    assert list(science["answer"]) == ["A", "B", "C", "A"] and list(science.loc[0, ["A", "B", "C"]]) == [
        "red", "green", "blue",
    ]  # fmt: skip
    assert list(science["hint"]) == ["", "Look.", "", "Look."]
    standard = sheet(written(run("mmmu_pro_standard"), "vlmevalkit", tmp_path))
    assert list(standard["C"]) == ["", "<image 2>!", "", ""]
    assert list(sheet(written(run("pope"), "vlmevalkit", tmp_path))["answer"][:2]) == ["Yes", "No"]
    text = sheet(written(run("textvqa"), "vlmevalkit", tmp_path))
    assert json.loads(text["answer"][0].replace("'", '"')) == ["dog"] * 7 + ["cat"] * 3
    verse = sheet(written(run("mathverse"), "vlmevalkit", tmp_path))
    assert isinstance(json.loads(verse["metadata"][0].replace("'", '"')), dict)  # as the kit reads it
    dynamath = sheet(written(run("dynamath"), "vlmevalkit", tmp_path)).astype({"varid": int, "qid": int, "index": int})
    firsts = dynamath[dynamath["varid"] == 1]  # the kit looks up each variant's qid among these indices
    assert set(dynamath["qid"]) == set(firsts["index"]) and list(dynamath.groupby("qid").size()) == [10, 10]
    logicvista = sheet(written(run("logicvista"), "vlmevalkit", tmp_path))
    assert list(logicvista["index"]) == ["0", "2", "3", "4"]  # row 1 has no answer and is no item


def test_thinking_failures_and_what_was_not_run(run: Cells, tmp_path: Path) -> None:
    texts = {
        "00000": "<think>first</think> no </think> B ", "00001": None, "00002": "<think>never ends", "00003": " plain ",
    }  # fmt: skip
    row = written(run("scienceqa", texts=texts), "vlmevalkit", tmp_path)
    table = sheet(row)
    assert list(table["prediction"]) == ["B", "Failed to obtain answer via API.", "<think>never ends", " plain "]
    assert list(table["thinking"]) == ["<think>first</think> no", "", "", ""] and row["failed"] == 1
    from_log = replies(written(run("scienceqa", texts=texts), "lmms_eval", tmp_path / "lmms"))
    tags = [["<think>", "</think>"]]  # lmms-eval cuts by default, so that it gets the reply with its thinking
    assert from_log[0] == texts["00000"] and [strip_reasoning_tags(text, tags) for text in from_log.values()][1:] == [
        "", "<think>never ends", "plain",
    ]  # fmt: skip
    whole = sheet(written(run("scienceqa", "protocol.thinking=whole", texts=texts), "vlmevalkit", tmp_path))
    assert whole["prediction"][0] == texts["00000"] and "thinking" not in whole
    part = written(run("scienceqa", "limit=2", "subset.mode=first"), "vlmevalkit", tmp_path)
    assert part["answers"] == 2 and part["of"] == 4 and "2 questions were not run" in part["note"]


TRICKY = ["=1+1", "+1", "-5", "@SUM(A1)", '=HYPERLINK("x")', "a\tb\nc", 'say "hi"', "bell\x07", "汉字 π", "2.50", ""]


def test_texts_stay_texts_in_a_spreadsheet(tmp_path: Path) -> None:
    path = tmp_path / "x.xlsx"
    lines = [{"index": i, "prediction": text, "none": None} for i, text in enumerate(TRICKY)]
    assert write_xlsx(path, lines) == 0
    cells = [row[1] for row in openpyxl.load_workbook(path).active.iter_rows(min_row=2)]
    assert [cell.value or "" for cell in cells] == [text.replace("\x07", "�") for text in TRICKY]
    assert {cell.data_type for cell in cells if cell.value} == {"s"}
    assert [cell.quotePrefix for cell in cells] == [text[:1] in ("=", "+", "-", "@") and text != "" for text in TRICKY]
    write_tsv(tmp_path / "x.tsv", lines)
    back = pandas.read_csv(tmp_path / "x.tsv", sep="\t", dtype=str, keep_default_na=False)
    assert list(back["prediction"]) == TRICKY
    assert write_xlsx(path, [{"prediction": "thinks " * 6000 + "Answer: B"}]) == 1
    (kept,) = pandas.read_excel(path)["prediction"]
    assert len(kept) == 32767 and kept.endswith("Answer: B")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.tsv", "x.xlsx"]  # nothing half-written is left


# lmms-eval


def test_files_of_lmms_eval(run: Cells, tmp_path: Path) -> None:
    folder = run("logicvista", texts={"logicvista 0": "x"})
    row = written(folder, "lmms_eval", tmp_path / "out")
    assert row["task"] == "logicvista_reasoning" and row["answers"] == 4 and row["of"] == 5
    assert "1 rows have no answer (1), which from_log needs: fill=true" in row["note"]
    (samples,) = Path(row["file"]).glob("*_samples_logicvista_reasoning.jsonl")
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    records = list(read_log(folder).values())
    assert [line["doc_id"] for line in lines] == [0, 2, 3, 4]
    assert sorted(line["filtered_resps"] for line in lines) == sorted(record["text"] for record in records)
    assert [line["target"] for line in lines] == ["A", "A, C", "B", "D"] and "question 0" in lines[0]["input"]
    assert lines[0]["token_counts"] == [{"input_tokens": 73, "output_tokens": 2, "reasoning_tokens": 0}]
    (results,) = Path(row["file"]).glob("*_results.json")
    summary = json.loads((folder / "summary.json").read_text())["metrics"]
    shown = json.loads(results.read_text())["results"]["logicvista_reasoning"]
    assert shown == {"alias": "logicvista_reasoning"} | {f"{k},vtpbench": v["value"] for k, v in summary.items()}


def test_questions_that_were_not_run(run: Cells, tmp_path: Path) -> None:
    """lmms-eval scores all questions, so that each needs an answer; VLMEvalKit scores those that are there."""
    part = run("scienceqa", "limit=2", "subset.mode=first", texts={"00000": "A", "00001": None})
    with pytest.raises(InputError, match=r"2 of 4 questions were not run.*fill=true"):
        written(part, "lmms_eval", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    row = written(part, "lmms_eval", tmp_path / "out", fill=True)
    assert (row["answers"], row["of"], row["failed"]) == (2, 4, 1) and "2 rows that were not asked" in row["note"]
    assert replies(row) == {0: "A", 1: "", 2: "", 3: ""}


def test_of_several_replies_the_first(run: Cells, tmp_path: Path) -> None:
    folder = run("scienceqa", "repeats=3", "protocol.temperature=1")
    log = read_log(folder)
    assert len(log) == 12
    first = [log[f"0000{i}", 0]["text"] for i in range(4)]
    assert first != [log[f"0000{i}", 2]["text"] for i in range(4)]
    lmms, kit = (written(folder, to, tmp_path / to) for to in ("lmms_eval", "vlmevalkit"))
    assert list(replies(lmms).values()) == first == list(sheet(kit)["prediction"])
    assert "the first, repeat 0" in lmms["note"] and "the first, repeat 0" in kit["note"]
    assert lmms["answers"] == kit["answers"] == 4


def test_reasoning_aloud_goes_to_its_own_task(run: Cells, tmp_path: Path) -> None:
    """`mmmu_pro_standard_cot` of lmms-eval scores as `mmmu_pro_standard` does, but is not the same table of results."""
    aloud = written(run("mmmu_pro_standard", "benchmark=mmmu_pro_standard_cot"), "lmms_eval", tmp_path)
    assert aloud["task"] == "mmmu_pro_standard_cot" and find(aloud["task"])
    assert written(run("mmmu_pro_standard"), "lmms_eval", tmp_path)["task"] == "mmmu_pro_standard"
    verse = written(run("mathverse", "benchmark=mathverse_cot"), "lmms_eval", tmp_path)
    assert verse["task"] == "mathverse_testmini_reasoning" and find(verse["task"])
    assert written(run("mathverse"), "lmms_eval", tmp_path)["task"] == "mathverse_testmini"
    lite = run("mathverse", "benchmark=mathverse_cot", "benchmark.version=text_lite")
    with pytest.raises(InputError, match="no task for mathverse_cot of version text_lite"):
        written(lite, "lmms_eval", tmp_path)


ODD = {"00000": "a\uffffb\ufffe", "00001": "half \ud800 of one", "00002": "Answer: A\rtail", "00003": "C\r\nD\n"}


def test_any_text_can_be_exported(run: Cells, tmp_path: Path) -> None:
    folder = run("scienceqa", texts=dict(ODD))
    lmms, kit = (written(folder, to, tmp_path / to) for to in ("lmms_eval", "vlmevalkit"))
    whole = [text.replace("\ud800", "�") for text in ODD.values()]
    assert list(replies(lmms).values()) == whole
    beside = pandas.read_csv(kit["file"].replace(".xlsx", ".tsv"), sep="\t", dtype=str, keep_default_na=False)
    assert list(beside["prediction"]) == whole  # a row each
    table = pandas.read_excel(kit["file"], dtype=str, keep_default_na=False)
    assert list(table["prediction"]) == ["a�b�", *whole[1:]]


def test_a_damaged_summary_is_passed_over(run: Cells, tmp_path: Path) -> None:
    folder = run("scienceqa")
    (folder / "summary.json").write_text("{")
    (results,) = Path(written(folder, "lmms_eval", tmp_path)["file"]).glob("*_results.json")
    assert json.loads(results.read_text())["results"] == {"scienceqa_img": {"alias": "scienceqa_img"}}


def replies(row: dict[str, Any]) -> dict[int, str]:
    """What `from_log` answers, by the row of the data."""
    (log,) = Path(row["file"]).glob("*_from_log_*.json")
    return {line["doc_id"]: line["resps"][0][0] for line in json.loads(log.read_text())["logs"]}


def test_a_cell_that_went_on_replaces_its_files(run: Cells, tmp_path: Path) -> None:
    folder, out = run("scienceqa"), tmp_path / "out"
    first = Path(written(folder, "lmms_eval", out)["file"])
    before = {file.name for file in first.iterdir()}
    (first / "notes.txt").write_text("mine")
    (log,) = folder.glob("samples-*.jsonl")
    os.utime(log, (log.stat().st_mtime + 3600,) * 2)
    written(folder, "lmms_eval", out)
    after = {file.name for file in first.iterdir()}
    assert len(before) == 3 and len(after) == 4 and after & before == set() and "notes.txt" in after


RESCORE = """
import harness.compat, json, sys
from lmms_eval.api.task import ConfigurableTask
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from lmms_eval.utils import load_yaml_config
found = {}
for task, (file, data, logs) in json.load(sys.stdin).items():
    config = load_yaml_config(yaml_path=file, mode="full")
    config |= {"dataset_path": "parquet", "dataset_kwargs": {"data_files": {"test": data}}}
    config.pop("dataset_name", None)
    made = ConfigurableTask(config=config, model_name="from_log")
    manager = TaskManager("ERROR", include_defaults=False, model_name="from_log")
    found |= simple_evaluate(model="from_log", model_args=f"logs={logs}", tasks=[made], task_manager=manager,
                             bootstrap_iters=0, process_docs_parallel=1)["results"]
print("RESULT", json.dumps(found))
"""


def test_lmms_eval_scores_our_answers(run: Cells, tmp_path: Path) -> None:
    """Its model `from_log` answers with what was exported; the scores are counted by hand."""
    science = run("scienceqa", "limit=3", "subset.mode=first", texts={"00000": "A. red", "00001": "C", "00002": None})
    yes = run("pope", texts={str(i): "Yes" if i in (0, 2, 3) else "no" for i in range(9)})  # right: even; tp 0, 2; fp 3
    asked = {}
    for name, folder in (("scienceqa", science), ("pope", yes)):
        row = written(folder, "lmms_eval", tmp_path / "out", fill=True)
        file = tmp_path / "data" / name / LOCAL[name][0][0]
        asked[row["task"]] = str(find(row["task"])), str(file), row["file"]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", RESCORE], input=json.dumps(asked), cwd=ROOT, env=offline,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.rpartition("RESULT ")[2].splitlines()[0])
    assert found["scienceqa_img"]["exact_match,none"] == 1 / 4  # one right, one wrong, one failed, one not asked
    assert found["pope"]["pope_accuracy,none"] == (2 + 3) / 9
    assert found["pope"]["pope_precision,none"] == 2 / 3 and found["pope"]["pope_recall,none"] == 2 / 5


# what cannot be


def test_the_command(run: Cells, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run("scienceqa")
    for to in KITS:
        assert main(["export", str(tmp_path / "results"), f"to={to}", f"out={tmp_path}/out"]) == 0
        printed = capsys.readouterr().out
        assert str(tmp_path / "out") in printed and len(printed.splitlines()) == 2
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    moved = f"benchmark.data={tmp_path}/elsewhere/scienceqa"
    assert main(["export", str(folder), "to=lmms_eval", f"out={tmp_path}/out", moved]) == 0
    other = local(tmp_path / "other", "scienceqa")
    file, kind, n, row = LOCAL["scienceqa"][0]
    write(other / file, kind, [row(i) for i in reversed(range(n))])
    capsys.readouterr()
    bad = {
        (): "export needs cell folders",
        (f"{tmp_path}/none", "to=lmms_eval"): "is not the folder of a cell",
        (str(folder),): "to= must be vlmevalkit or lmms_eval, got nothing",
        (str(folder), "to=helm"): "got helm",
        (str(folder), "to=lmms_eval", "limit=3"): "unknown key limit",
        (str(folder), "to=lmms_eval", "fill=maybe"): "fill must be true or false",
        (str(folder), "to=lmms_eval"): "does not exist",
        (str(folder), "to=lmms_eval", f"benchmark.data={other}"): "not those of the run",
        (str(folder), "to=lmms_eval", moved, "out=/dev/null/x"): "cannot write to /dev/null/x",
    }
    for arguments, says in bad.items():
        assert main(["export", *arguments]) == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1, error


@pytest.mark.parametrize("to", KITS)
def test_references_other_than_those_of_the_run(to: str, run: Cells, tmp_path: Path) -> None:
    folder = run("scienceqa")
    (log,) = folder.glob("samples-*.jsonl")
    lines = log.read_text()
    log.write_text(lines.replace('"answer": "B"', '"answer": "C"'))
    with pytest.raises(InputError, match="reference of 00001 was 'C' in the run, and is 'B' in the data"):
        written(folder, to, tmp_path / "out")
    log.write_text(lines)
    (file,) = (tmp_path / "data").rglob("ScienceQA-IMG/test*.parquet")
    table = parquet.read_table(file)
    k = table.column_names.index("answer")
    other = pyarrow.array([1, 1, 2, 0], table["answer"].type)
    parquet.write_table(table.set_column(k, table.schema.field(k), other), file)
    with pytest.raises(InputError, match="the data are not those of the run"):
        written(folder, to, tmp_path / "out")


def test_data_from_the_hub_are_those_of_the_run(run: Cells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The branch may have moved since; the commit has not."""
    folder, asked = run("scienceqa"), []
    config = yaml.safe_load((folder / "config.yaml").read_text())
    here = config["benchmark"]["data"]
    config["benchmark"]["data"], config["data"] = None, {"hub": "x", "revision": "main", "commit": "c0ffee"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))

    def hub(name: str, sources: Sequence[Source], revision: str, data: str | None) -> Files:
        asked.append((revision, data))
        return locate(name, sources, revision, here)

    monkeypatch.setattr("harness.benchmarks.table.locate", hub)
    assert written(folder, "lmms_eval", tmp_path / "out")["answers"] == 4
    assert written(folder, "lmms_eval", tmp_path / "out", data=here)["answers"] == 4
    assert set(asked) == {("c0ffee", None), ("main", here)}


def test_what_no_kit_has(run: Cells, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "limit=2", "executor.gpus=none", f"paths.results={tmp_path}/glyphs"], FakeBackend()) == 0
    full = run("scienceqa", "benchmark.version=full")
    capsys.readouterr()
    for arguments, says in (
        ((f"{tmp_path}/glyphs", "to=lmms_eval"), "no other kit has glyph_lookup"),
        ((str(full), "to=vlmevalkit"), "no form of VLMEvalKit is known of scienceqa, version full"),
    ):
        assert main(["export", *arguments, f"out={tmp_path}/out"]) == 2
        assert says in capsys.readouterr().err
