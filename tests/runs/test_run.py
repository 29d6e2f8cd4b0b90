"""Running cells: logs, resume, subsets, shards, failures, worker processes."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from harness.benchmarks.base import Item
from harness.runs.config import SubsetConfig
from harness.runs.errors import InputError
from harness.runs.executors import find_devices
from harness.runs.log import Log, read_log
from harness.runs.outlook.forecast import Assume, forecasts
from harness.runs.overview import diff, status_rows
from harness.runs.pool import Pool
from harness.runs.processes import Processes
from harness.runs.run import check_writable, run_cells
from harness.runs.selection import parse_shard, select
from pruners import Replay


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for file in sorted(folder.glob("samples-*.jsonl")) for line in file.open()]


def test_a_cell_writes_log_summary_config_and_environment(run):
    (outcome,) = run("pruner=fastv", "keep=1/9", "limit=7")
    folder, summary = outcome.cell.folder, outcome.summary
    assert folder.parts[-5:-1] == ("runs", "tiny_qwen3_vl", "glyph_lookup", "fastv@0.111")
    assert folder.name.startswith("greedy-")
    records = lines(folder)
    assert len(records) == 7 and "kept" not in records[0]
    assert {"id", "repeat", "token_ids", "text", "finish", "ret_prefill", "flops", "answer", "category",
            "cluster", "meta", "code"} <= records[0].keys()  # fmt: skip
    assert summary == json.loads((folder / "summary.json").read_text())
    (file,) = (folder / "scores").glob("glyph.lookup-none-*.jsonl")
    right = [json.loads(line)["value"] for line in file.open()]
    assert len(right) == 7 and right == [float(r["text"] == r["answer"]) for r in records]
    assert (
        summary["accuracy"] == summary["metrics"]["mean"]["value"] == sum(right) / 7
        and summary["n"] == summary["selected"] == 7
    )
    assert (summary["ret_nominal"], summary["ret_prefill"], summary["kv"]) == pytest.approx((1 / 9, 0.66, 0.6))
    assert summary["trace_length_median"] == 2 and summary["flops"]["prefill"] == 20 and summary["complete"]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["pruner"] == {"name": "fastv", "_target_": "pruners.FastV", "layer": "2/32"}
    assert config["keep"] == 1 / 9 and config["decoding"]["max_new_tokens"] == 96
    environment = json.loads((folder / "environment.json").read_text())
    assert environment[records[0]["code"]]["versions"] == {"engine": "fake-1"}
    assert "torch" in environment[records[0]["code"]]["packages"]


def test_a_longer_run_continues_and_a_second_one_runs_nothing(run, backend):
    run("limit=8")
    (outcome,) = run("limit=20")
    assert len(backend.engines[1].seen) == 12 and outcome.summary["n"] == 20
    run("limit=20", "engine.slots=3", "logger=csv")
    assert len(backend.engines) == 2


def test_a_torn_last_line_is_repaired_and_said(run, capsys):
    (outcome,) = run("limit=6")
    whole = lines(outcome.cell.folder)
    (file,) = outcome.cell.folder.glob("samples-*.jsonl")
    content = file.read_bytes()
    file.write_bytes(content[:-20])
    assert len(read_log(outcome.cell.folder)) == 5
    assert len(read_log(outcome.cell.folder)) == 5  # reading repairs nothing
    run("limit=6")
    assert "removed a torn last line" in capsys.readouterr().err
    assert sorted(lines(outcome.cell.folder), key=str) == sorted(whole, key=str)


def test_two_writers_never_share_a_file(tmp_path):
    first, second = (Log(tmp_path, "kept", print) for _ in range(2))
    first.append({"id": "a", "writer": 0})
    second.append({"id": "a", "writer": 1})
    second.append({"id": "b"})
    assert len(list(tmp_path.glob("kept-*.jsonl"))) == 2
    assert read_log(tmp_path, "kept") == {("a", 0): {"id": "a", "writer": 0}, ("b", 0): {"id": "b"}}
    first.close()
    third = Log(tmp_path, "kept", print)
    third.append({"id": "c"})
    assert len(list(tmp_path.glob("kept-*.jsonl"))) == 2


def test_damage_inside_a_log_is_named(tmp_path):
    (tmp_path / "kept-x-0.jsonl").write_text('{"id": "a"}\nrubbish\n{"id": "b"}\n')
    with pytest.raises(InputError, match=r"kept-x-0.jsonl, line 2 is damaged"):
        read_log(tmp_path, "kept")


def test_identity_holds_what_is_generated_and_nothing_else(cell):
    base = cell("pruner=fastv").hash
    for same in ("limit=3", "subset.mode=first", "engine.slots=2", "engine.feature_cache_mb=1", "executor.gpus=none",
                 "logger=wandb", "seed=5", "record=kept", "resume=mixed", "protocol.thinking=whole", "shard=0/2",
                 "keep=1/3", "fail_on_error=1", "only=failed", "engine.feature_cache_folder=x",
                 "engine.feature_cache_disk_mb=9"):  # fmt: skip
        assert cell("pruner=fastv", same).hash == base, same
    for other in ("keep=0.5", "tokens=8", "pruner.layer=3", "benchmark.seed=1", "benchmark.size=39",
                  "model.dtype=bfloat16", "model.min_pixels=64", "protocol.version=2", "protocol.system=hi",
                  "protocol.temperature=0.5", "protocol.stop=[x]", "benchmark.max_new_tokens=5",
                  "benchmark=glyph_walk"):  # fmt: skip
        assert cell("pruner=fastv", other).hash != base, other
    hot = "protocol.temperature=0.5"
    assert cell(hot, "seed=1").hash != cell(hot, "seed=2").hash
    assert cell("pruner=random", "pruner.seed=1").hash != cell("pruner=random").hash


def test_the_processor_is_part_of_the_identity(plan, backend):
    first = plan().cells[0].hash
    object.__setattr__(backend, "processor", "other")
    assert plan().cells[0].hash != first


def test_other_code_is_refused_unless_asked_for(run, backend):
    run("limit=4")
    object.__setattr__(backend, "version", "fake-2")
    assert run("limit=4")[0].error is None  # nothing to add, nothing mixed
    (outcome,) = run("limit=6")
    assert outcome.failed and "made by other code" in outcome.error and len(lines(outcome.cell.folder)) == 4
    (outcome,) = run("limit=6", "resume=mixed")
    assert len({r["code"] for r in lines(outcome.cell.folder)}) == 2 and len(outcome.summary["codes"]) == 2
    (outcome,) = run("limit=5", "resume=fresh")
    assert len({r["code"] for r in lines(outcome.cell.folder)}) == 1 and len(lines(outcome.cell.folder)) == 5


def test_failing_samples_are_recorded_and_the_cell_goes_on(plan, backend):
    broken = replace(backend, failing=frozenset({"00001"}))
    plan_ = plan("limit=10", "subset.mode=first", "pruner=none,blind")
    for outcome in run_cells(plan_.cells, broken):
        assert outcome.failed and outcome.error is None  # 10 % is more than fail_on_error
        assert (outcome.summary["n"], outcome.summary["failures"]) == (9, 1)
        assert outcome.summary["complete"] and outcome.summary["failure_rate"] == 0.1
        (record,) = [r for r in lines(outcome.cell.folder) if r["finish"] == "error"]
        assert record["error"] == "ValueError: damaged"
    assert not run_cells(plan("limit=10", "fail_on_error=0.2").cells, broken)[0].failed


def test_a_failing_cell_keeps_its_samples_and_does_not_stop_the_grid(plan, backend):
    cells = plan("pruner=none,blind", "limit=10").cells
    outcomes = run_cells(cells, replace(backend, breaks_at=6))
    assert [o.error.split(" (see")[0] for o in outcomes] == ["RuntimeError: the engine is broken"] * 2
    assert [len(lines(o.cell.folder)) for o in outcomes] == [6, 6]
    assert "Traceback" in (cells[0].folder / "error.txt").read_text()
    outcomes = run_cells(cells, backend)
    assert [o.summary["n"] for o in outcomes] == [10, 10] and not any(o.failed for o in outcomes)


def test_shards_part_the_samples(run):
    parts = [{r["id"] for r in lines(run("limit=20", f"shard={i}/3")[0].cell.folder)} for i in range(3)]
    assert [len(p) for p in parts] == [7, 14, 20]
    (outcome,) = run("limit=20")
    assert outcome.summary["complete"]
    assert parse_shard(None) == (0, 1) and parse_shard("2/3") == (2, 3)
    for bad in ("3/3", "x/2", "1", "-1/2"):
        with pytest.raises(InputError, match="shard must be i/n"):
            parse_shard(bad)


def test_subsets_are_nested_whole_clusters_and_balanced():
    items = [Item(f"{i}", ("",), "", cluster=f"c{i // 4}", category="rare" if i < 80 else "often") for i in range(400)]
    for mode in ("first", "stratified"):
        subsets = [select(items, n, SubsetConfig(mode=mode)) for n in (3, 20, 50, 203)]
        assert [len(s) for s in subsets] == [4, 20, 48, 200]  # a first cluster is taken even if it is too large
        for small, large in itertools.pairwise(subsets):
            assert set(small) <= set(large)
        assert all(len({i // 4 for i in s}) * 4 == len(s) and s == sorted(s) for s in subsets)
    assert sum(i < 80 for i in subsets[-1]) == 40
    assert select(items, 20, SubsetConfig()) != select(items, 20, SubsetConfig(seed=1))
    assert select(items, 400, SubsetConfig()) == list(range(400))


def test_repeats_are_replies_of_their_own(run):
    (outcome,) = run("protocol.temperature=1.0", "repeats=3", "limit=5")
    assert outcome.summary["n"] == 15
    assert {r["repeat"] for r in lines(outcome.cell.folder)} == {0, 1, 2}
    assert run("protocol.temperature=1.0", "repeats=2", "limit=5")[0].summary["n"] == 10


def test_kept_sets_can_be_replayed(run):
    (outcome,) = run("limit=6")
    assert not (outcome.cell.folder / "kept.jsonl").exists()
    (outcome,) = run("limit=6", "record=kept")  # what was done without is done again, with the same content
    file = outcome.cell.folder / "kept.jsonl"
    assert [json.loads(line)["id"] for line in file.open()] == sorted(r["id"] for r in lines(outcome.cell.folder)[:6])
    assert Replay(path=str(file)).layers(4) == ()
    assert outcome.summary["n"] == 6


def test_one_load_serves_the_whole_grid(run, backend):
    run("pruner=none,fastv,random", "keep=1/3,1/9", "limit=3")
    assert len(backend.engines) == 1


def test_worker_processes_share_the_samples_and_are_replaced(plan, backend, monkeypatch):
    monkeypatch.setattr("harness.runs.pool.CHUNK", 4)
    deadly = replace(backend, deadly=frozenset({"00011"}), failing=frozenset({"00003"}))
    workers = Pool(Processes(deadly, ["cpu", "cpu:1"]))
    (outcome,) = run_cells(plan("limit=12", "subset.mode=first").cells, deadly, executor=workers)
    records = read_log(outcome.cell.folder)
    assert len(records) == 12 and outcome.summary["failures"] == 2
    assert "worker died twice (exit code 9)" in records["00011", 0]["error"]
    run_cells(plan("limit=12", "subset.mode=first", "resume=fresh").cells, backend)
    alone = read_log(outcome.cell.folder)
    assert all(alone[key]["text"] == record["text"] for key, record in records.items() if not record["error"])


def test_a_broken_worker_fails_the_cell_with_its_message(plan, backend):
    broken = replace(backend, breaks_at=4)
    (outcome,) = run_cells(plan("limit=10").cells, broken, executor=Pool(Processes(broken, ["cpu", "cpu:1"])))
    assert "the engine is broken" in outcome.error


def test_devices():
    assert find_devices("none") == ["cpu"]
    with pytest.raises(InputError, match=r"executor.gpus must be all, none or numbers of GPUs, got 99"):
        find_devices("99")


def test_results_folder_not_writable(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is not writable: Not a directory"):
        check_writable(tmp_path / "file" / "results")


def test_overviews(run, plan):
    (first, second) = run("pruner=none,blind", "limit=8")
    run("pruner=none", "limit=3")
    rows = status_rows(Path(first.cell.config.paths.results))
    assert [(r["samples"], r["of"], r["state"]) for r in rows] == [(8, 8, "complete")] * 2
    planned = forecasts(plan("pruner=none,random", "limit=10").cells, "h200", Assume())
    assert [(one.samples, one.done) for one in planned] == [(10, 8), (10, 0)]
    assert planned[0].earlier == pytest.approx(0.6) and planned[1].earlier == pytest.approx(3.0)
    text = diff(first.cell.folder, second.cell.folder)
    assert "pruner.name: none | blind" in text and "common samples: 8, the same reply: 8" in text
