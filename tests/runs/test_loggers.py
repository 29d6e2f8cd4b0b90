"""Loggers, read back from what they wrote."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def test_csv_curves(run):
    run("limit=4")
    (outcome,) = run("limit=9", "logger=csv")
    rows = list(csv.DictReader((outcome.cell.folder / "curves.csv").open()))
    assert [int(r["samples"]) for r in rows] == list(range(1, 10))  # samples of the first run included
    assert float(rows[-1]["accuracy"]) == pytest.approx(outcome.summary["accuracy"])


def test_wandb_offline_run_reads_back(run, tmp_path):
    outcomes = run("pruner=none,blind", "limit=5", "logger=wandb")
    runs = [read(file) for file in sorted(tmp_path.glob("out/wandb/offline-run-*/run-*.wandb"))]
    runs.sort(key=lambda r: len(r["table"]["data"]))
    assert [r["id"] for r in runs] == [o.cell.hash[:16] for o in outcomes]
    for found, outcome in zip(runs, outcomes, strict=True):
        assert found["config"]["pruner"]["name"] == outcome.cell.config.pruner.name
        assert found["config"]["identity"] == outcome.cell.identity
        curves = [row for row in found["history"] if "accuracy" in row]
        assert [row["samples"] for row in curves] == [1, 2, 3, 4, 5]
        assert curves[-1]["accuracy"] == pytest.approx(outcome.summary["accuracy"])
        assert {"ret_prefill", "ret_decode", "trace_length", "tflops"} <= curves[-1].keys()
        assert found["summary"]["accuracy"] == pytest.approx(outcome.summary["accuracy"])
        assert found["summary"]["n"] == 5
    table = runs[-1]["table"]
    assert [dict(zip(table["columns"], row, strict=True))["cell"] for row in table["data"]] == [
        o.cell.name for o in outcomes
    ]


def read(file: Path) -> dict[str, Any]:
    """Config, history, summary and leaderboard of an offline run, by wandb's own reader."""
    found: dict[str, Any] = {"config": {}, "history": [], "summary": {}, "id": None}
    for record in records(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found["id"] = record.run.run_id
            found["config"] |= {u.key: json.loads(u.value_json) for u in record.run.config.update}
        elif kind == "history":
            items = record.history.item
            found["history"].append({i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items})
        elif kind == "summary":
            for item in record.summary.update:
                found["summary"][item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
    found["table"] = json.loads((file.parent / "files" / found["summary"]["leaderboard.path"]).read_text())
    return found


def records(file: Path) -> Iterator[Any]:
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    store = DataStore()
    store.open_for_scan(str(file))
    while data := store.scan_data():
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        yield record
