"""Tidy frames read from the cell folders of a results folder; everything else in this package starts from them.

A cell is `results/runs/<model>/<benchmark>/<pruner>@<keep>+<addon>/<decoding>-<hash8>/` with `config.yaml`, the
append-only logs `samples-<writer>.jsonl` and the scores. Only these are read, so a table can be printed while a run is
going on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import yaml

from harness.runs.errors import InputError
from harness.runs.lines import check_config
from harness.runs.log import LOADER
from harness.runs.scores import ScoreSpec
from harness.runs.typed import flatten
from harness.tables.samples import FLOPS, MEANS
from harness.tables.store import Source, read_all

__all__ = ["FLOPS", "TablesError", "cells_frame", "load", "samples_frame", "varying"]

_FLOATS = ("keep", "tokens", "metric_value")


class TablesError(InputError):
    """Nothing can be printed; the message is one line that says why."""


def cells_frame(results: Path, models: Sequence[str] = (), benchmarks: Sequence[str] = ()) -> pd.DataFrame:
    """One row per cell: its settings, and counts and means over all its finished samples, whatever `limit` ran last.

    Columns: cell (folder), model, benchmark, protocol, decoding, method, addon, keep, tokens, seed, limit, `setting`
    and `params` (dictionaries: what cells must share to be paired, and the method), `config` (what was asked for), n
    (finished samples), failed, unjudged (samples that wait for a judge; as long as there are any the cell has no
    accuracy), accuracy and lenient (by the official and by the lenient rule, 0..1), metric, metric_value and
    metric_note (the benchmark's headline: its name, value and what must be known of it), versions (of the code that
    made the samples), unparsed and truncated (shares), ret_nominal, ret_prefill, ret_decode, kv, evidence (recall,
    0..1), trace_length (median, tokens), visual_tokens, flops_* and kv_* (mean per sample), seconds (mean).

    Args:
        results: the results folder.
        models, benchmarks: names or globs to keep; empty keeps all.

    Raises:
        InputError: a log is damaged; as TablesError: no cell is there, or none has such a name.
    """
    return load(results, models, benchmarks)[0]


def samples_frame(results: Path, models: Sequence[str] = (), benchmarks: Sequence[str] = ()) -> pd.DataFrame:
    """One row per cell, sample id and repeat: credit, reply, finish and everything measured, lists left out.

    `line` is what the benchmark's headline is computed from, as JSON; None where that is the mean of credits.

    `failed` samples (an error instead of a reply) stay in, but have no credit and no measured values. Takes and raises
    what `cells_frame` does.
    """
    return load(results, models, benchmarks, text=True)[1]


def load(
    results: Path, models: Sequence[str] = (), benchmarks: Sequence[str] = (), *, text: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The frames of `cells_frame` and of `samples_frame`, from one reading.

    Args:
        results: the results folder, or the `runs` folder in it.
        models, benchmarks: names or globs to keep; empty keeps all.
        text: whether the samples have their replies (`text`). Only these are always read from the logs; the rest is
            kept in `results/cache/` for the next time.

    Raises:
        InputError: a log is damaged; as TablesError: no cell is there, or none has such a name.
    """
    sources = _sources(runs_folder(results).parent, models, benchmarks)
    if not text:
        read_all(sources)
    tables = [source.replies() if text else source.samples() for source in sources]
    configs = [source.about for source in sources]
    names = pd.Categorical.from_codes(
        np.repeat(np.arange(len(tables)), [table.num_rows for table in tables]),
        pd.Index([config["cell"] for config in configs]),
    )
    samples = pa.concat_tables(tables).to_pandas(split_blocks=True, self_destruct=True)
    samples.insert(0, "cell", names)
    return _summarise(configs, samples), samples


def varying(dicts: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each of some nested dictionaries, the "key=value" pairs in which they are not all the same."""
    flat = [dict(flatten(d)) for d in dicts]
    keys = [k for k in dict.fromkeys(k for f in flat for k in f) if any(f.get(k) != flat[0].get(k) for f in flat)]
    return [" ".join(f"{k.rpartition('.')[2]}={f[k]}" for k in keys if k in f) for f in flat]


def runs_folder(results: Path) -> Path:
    """The `runs` folder of a results folder, or that folder itself."""
    return results if results.name == "runs" and not (results / "runs").is_dir() else results / "runs"


def _sources(results: Path, models: Sequence[str], benchmarks: Sequence[str]) -> list[Source]:
    runs, cache = results / "runs", results / "cache"
    folders = [file.parent for file in sorted(runs.glob("*/*/*/*/config.yaml"))]
    found = [Source.find(folder, cache / f"{folder.relative_to(runs)}.arrow") for folder in folders]
    if not found:
        raise TablesError(f"no runs under {runs}: start one (vtpbench run ...) or name the folder with paths.results=")
    for source in found:
        source.about = source.about or _config(source.folder / "config.yaml", runs)
    for key, wanted in (("model", models), ("benchmark", benchmarks)):
        kept = [s for s in found if not wanted or any(fnmatchcase(s.about[key], pattern) for pattern in wanted)]
        if not kept:
            known = ", ".join(sorted({s.about[key] for s in found}))
            raise TablesError(f"no run with {key} {', '.join(wanted)} under {runs}; there are: {known}")
        found = kept
    return found


def _config(file: Path, runs: Path) -> dict[str, Any]:
    method, _, addon = file.parent.parent.name.partition("+")
    try:
        config = yaml.load(file.read_text(encoding="utf-8"), LOADER)
        check_config(config)
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
    except (OSError, UnicodeError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        raise TablesError(f"{file}: not the configuration of a run") from None


def _summarise(configs: list[dict[str, Any]], samples: pd.DataFrame) -> pd.DataFrame:
    by_cell = samples[~samples.failed].groupby("cell", observed=True)
    cells = pd.DataFrame(configs).set_index("cell").astype(dict.fromkeys(_FLOATS, "float64"))
    cells["n"] = by_cell.size().reindex(cells.index, fill_value=0)
    cells["failed"] = samples.groupby("cell", observed=True).failed.sum().reindex(cells.index, fill_value=0).astype(int)
    cells["unjudged"] = cells.n - by_cell.credit.count().reindex(cells.index, fill_value=0)
    cells["accuracy"] = by_cell.credit.mean().where(cells.unjudged == 0)
    cells["trace_length"] = by_cell.trace_length.median()
    cells = cells.join(by_cell[list(MEANS)].mean())
    share = (cells.tokens / cells.visual_tokens).clip(upper=1.0)
    cells["ret_nominal"] = cells.method.map({"none": 1.0, "blind": 0.0}).fillna(cells.keep).fillna(share)
    return cells.reset_index()
