"""Tidy frames read from the cell folders of a results folder; everything else in this package starts from them.

A cell is `results/runs/<model>/<benchmark>/<pruner>@<keep>+<addon>/<decoding>-<hash8>/` with `config.yaml` and the
append-only logs `samples-<writer>.jsonl`. Only these are read, so a table can be printed while a run is going on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from harness.runs.errors import InputError
from harness.runs.scores import ScoreSpec, measure, read_scored
from harness.runs.summary import failed, seconds, trace_length
from harness.runs.typed import flatten

FLOPS = ("vision", "prefill", "decode", "overhead")
KV_BYTES = ("visible", "resident", "allocated")
_MEANS = (
    *("lenient", "unparsed", "truncated", "visual_tokens", "ret_prefill", "ret_decode", "kv", "evidence"),
    *(f"flops_{part}" for part in FLOPS),
    *(f"kv_{kind}" for kind in KV_BYTES),
    *("prefill_seconds", "decode_seconds", "seconds"),
)
_COPIED = ("id", "repeat", "extracted", "answer", "category", "cluster", "text", "finish", "error")
_MEASURED = (
    *("text_tokens", "visual_tokens", "ret_prefill", "ret_decode", "kv", "evidence"),
    *("prefill_seconds", "decode_seconds"),
)
_NUMBERS = ("credit", "trace_length", "triggers", "peak_memory", *_MEASURED, *_MEANS)
_SAMPLE = tuple(dict.fromkeys(("cell", *_COPIED, "failed", *_NUMBERS)))


class TablesError(InputError):
    """Nothing can be printed; the message is one line that says why."""


def cells_frame(results: Path, models: Sequence[str] = (), benchmarks: Sequence[str] = ()) -> pd.DataFrame:
    """One row per cell: its settings, and counts and means over all its finished samples, whatever `limit` ran last.

    Columns: cell (folder), model, benchmark, protocol, decoding, method, addon, keep, tokens, seed, limit, `setting`
    and `params` (dictionaries: what cells must share to be paired, and the method), `config` (what was asked for), n
    (finished samples), failed, unjudged (samples that wait for a judge; as long as there are any the cell has no
    accuracy), accuracy and lenient (by the official and by the lenient rule, 0..1), metric, metric_value and
    metric_note (the benchmark's headline: its name, value and what must be known of it), unparsed and truncated
    (shares), ret_nominal, ret_prefill, ret_decode, kv, evidence (recall, 0..1), trace_length (median, tokens),
    visual_tokens, flops_* and kv_* (mean per sample), seconds (mean).

    Args:
        results: the results folder.
        models, benchmarks: names or globs to keep; empty keeps all.

    Raises:
        InputError: a log is damaged; as TablesError: no cell is there, or none has such a name.
    """
    return load(results, models, benchmarks)[0]


def samples_frame(results: Path, models: Sequence[str] = (), benchmarks: Sequence[str] = ()) -> pd.DataFrame:
    """One row per cell, sample id and repeat: credit, reply, finish and everything measured, lists left out.

    `failed` samples (an error instead of a reply) stay in, but have no credit and no measured values. Takes and raises
    what `cells_frame` does.
    """
    return load(results, models, benchmarks)[1]


def load(
    results: Path, models: Sequence[str] = (), benchmarks: Sequence[str] = ()
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both frames, from one reading of the logs."""
    configs = _configs(results, models, benchmarks)
    rows = []
    for config in configs:
        spec = ScoreSpec.read(results / "runs" / config["cell"], config)
        lines = list(read_scored(results / "runs" / config["cell"], spec).values())
        rows += [_sample(config["cell"], line) for line in lines]
        config["metric"] = spec.scoring.metrics[0]
        headline = measure(lines, [config["metric"]])[config["metric"]]
        config |= {"metric_value": headline["value"], "metric_note": headline["note"]}
    samples = pd.DataFrame(rows, columns=list(_SAMPLE))
    samples = samples.astype(dict.fromkeys(_NUMBERS, "float64")).astype({"failed": bool})
    return _summarise(configs, samples), samples


def varying(dicts: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each of some nested dictionaries, the "key=value" pairs in which they are not all the same."""
    flat = [dict(flatten(d)) for d in dicts]
    keys = [k for k in dict.fromkeys(k for f in flat for k in f) if any(f.get(k) != flat[0].get(k) for f in flat)]
    return [" ".join(f"{k.rpartition('.')[2]}={f[k]}" for k in keys if k in f) for f in flat]


def _configs(results: Path, models: Sequence[str], benchmarks: Sequence[str]) -> list[dict[str, Any]]:
    runs = results / "runs"
    found = [_config(file, runs) for file in sorted(runs.glob("*/*/*/*/config.yaml"))]
    if not found:
        raise TablesError(f"no runs under {runs}: start one (vtpbench run ...) or name the folder with paths.results=")
    for key, wanted in (("model", models), ("benchmark", benchmarks)):
        kept = [c for c in found if not wanted or any(fnmatchcase(c[key], pattern) for pattern in wanted)]
        if not kept:
            known = ", ".join(sorted({c[key] for c in found}))
            raise TablesError(f"no run with {key} {', '.join(wanted)} under {runs}; there are: {known}")
        found = kept
    return found


def _config(file: Path, runs: Path) -> dict[str, Any]:
    method, _, addon = file.parent.parent.name.partition("+")
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        protocol, identity = config["protocol"], config["identity"]
        ScoreSpec.read(file.parent, config)
        return {
            "cell": file.parent.relative_to(runs).as_posix(),
            "model": config["model"]["name"],
            "benchmark": config["benchmark"]["name"],
            "protocol": f"{protocol['name']}/{protocol['version']}" + ("*" if protocol["changed"] else ""),
            "decoding": file.parent.name.rpartition("-")[0],
            "method": method.partition("@")[0],
            "addon": addon or "none",
            **{key: config[key] for key in ("keep", "tokens", "seed", "limit")},
            "scoring": config["scoring"],
            "assumed": protocol["assumed"],
            "changed": protocol["changed"],
            "setting": {key: value for key, value in identity.items() if key != "pruner"}
            | {"scoring": config["scoring"]["id"]},
            "params": identity["pruner"],
            "config": {key: config[key] for key in ("model", "benchmark", "protocol", "decoding")},
        }
    except (yaml.YAMLError, KeyError, TypeError, AttributeError):
        raise TablesError(f"{file}: not the configuration of a run") from None


def _sample(cell: str, line: Mapping[str, Any]) -> dict[str, Any]:
    row = {"cell": cell, "repeat": 0, **{key: line[key] for key in _COPIED if key in line}, "failed": failed(line)}
    row["cluster"] = line.get("cluster") or line["id"]
    if row["failed"]:
        return row | {"credit": None}
    return row | {
        "credit": line["value"],
        "lenient": line["lenient"],
        "unparsed": line["unparsed"],
        **{key: line.get(key) for key in _MEASURED},
        **{f"flops_{part}": line.get("flops", {}).get(part) for part in FLOPS},
        **{f"kv_{kind}": line.get("kv_bytes", {}).get(kind) for kind in KV_BYTES},
        "trace_length": trace_length(line),
        "triggers": len(line.get("triggers", ())),
        "peak_memory": line.get("peak_memory"),
        "seconds": seconds(line),
        "truncated": str(line.get("finish")).startswith("length"),
    }


def _summarise(configs: list[dict[str, Any]], samples: pd.DataFrame) -> pd.DataFrame:
    by_cell = samples[~samples.failed].groupby("cell")
    cells = pd.DataFrame(configs).set_index("cell").astype({"keep": "float64", "tokens": "float64"})
    cells["n"] = by_cell.size().reindex(cells.index, fill_value=0)
    cells["failed"] = samples.groupby("cell").failed.sum().reindex(cells.index, fill_value=0).astype(int)
    cells["unjudged"] = cells.n - by_cell.credit.count().reindex(cells.index, fill_value=0)
    cells["accuracy"] = by_cell.credit.mean().where(cells.unjudged == 0)
    cells["trace_length"] = by_cell.trace_length.median()
    cells = cells.join(by_cell[list(_MEANS)].mean())
    share = (cells.tokens / cells.visual_tokens).clip(upper=1.0)
    cells["ret_nominal"] = cells.method.map({"none": 1.0, "blind": 0.0}).fillna(cells.keep).fillna(share)
    return cells.reset_index()
