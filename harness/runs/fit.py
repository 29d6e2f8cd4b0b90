"""Fitting a method to a model on a few samples: FitPrune's schedule, VTW's layer."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

from rich.console import Console
from rich.progress import track
from torch.nn.functional import kl_div

from harness.engine import Engine, Request
from harness.engine.features import FeatureCache
from harness.engine.parts import ignore
from harness.engine.prefill import Prefill, Prefilled
from harness.engine.vision import Vision
from harness.models.base import Features, Model, Prompt
from harness.runs.backend import Backend
from harness.runs.cells import make_benchmark, make_pruner
from harness.runs.config import RunConfig
from harness.runs.errors import InputError
from harness.runs.executors import find_devices
from harness.runs.log import write_atomically
from harness.runs.selection import select
from pruners.base import Pruner
from pruners.fitprune import FitPrune, Spare, attention, schedule
from pruners.none import NoPruning
from pruners.signals import Signal
from pruners.vtw import ETA, VTW, first_below

SAMPLES = 16
ALPHAS = [i / 50 for i in range(50)]
KEEPS = (0.75, 0.5, 1 / 3, 2 / 9, 1 / 9)

Ready = tuple[Request, Prompt, list[Features]]
Numbers = list[list[float]]
Rows = list[dict[str, Any]]


def fit(config: RunConfig, backend: Backend, out: Path | None) -> tuple[Rows, str]:
    """Fit `config.pruner` on `config.limit` samples (None: 16), and write what was found to `out`.

    Returns:
        A table with one row per layer, and a line that sums it up.

    Raises:
        InputError: the method has nothing to fit, `out` cannot be written, there are no pictures, or a sample fails.
        Skip: an add-on around the full model.
    """
    pruner = make_pruner(config)
    if type(pruner) not in FITS:
        known = ", ".join(kind.__name__ for kind in FITS)
        raise InputError(f"{type(pruner).__name__} has nothing that is fitted to a model; these have: {known}")
    kind = FITS[type(pruner)]
    if out:
        check_writable(out)
    device = find_devices(config.executor.gpus)[0]
    requests = chosen(config)
    model = cast(Engine, backend.engine(config.model, config.engine, device)).model
    console, measured = Console(stderr=True), list[Numbers]()
    for request in track(requests, "fit", console=console, transient=True, disable=not console.is_terminal):
        try:
            sample = ready(model, request)
            if len(sample[1].visual):
                measured.append(kind.measure(model, sample))
        except Exception as error:
            raise InputError(f"sample {request.id} failed: {type(error).__name__}: {error}") from error
    if not measured:
        raise InputError(f"no pictures in {len(requests)} samples of {config.benchmark.name}")
    found = [[round(sum(x) / len(x), 6) for x in zip(*rows, strict=True)] for rows in zip(*measured, strict=True)]
    if out:
        head = {"method": type(pruner).__name__, "model": config.model.path, "depth": model.info.depth}
        head |= {"benchmark": config.benchmark.name, "samples": len(measured)}
        write_atomically(out, json.dumps({**head, kind.key: found}) + "\n")
    return kind.table(pruner, found)


def check_writable(out: Path) -> None:
    """Raise InputError unless the file can be made."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        reason = "it is a folder" if out.is_dir() else "" if os.access(out.parent, os.W_OK) else "Permission denied"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise InputError(f"cannot write {out}: {reason}")


def chosen(config: RunConfig) -> list[Request]:
    """Requests of the samples that a run with the same limit takes."""
    benchmark, _ = make_benchmark(config.benchmark)
    items, system = benchmark.items(), config.protocol.system
    before = () if system is None else (system,)
    taken = (items[i] for i in select(benchmark.outlines(), config.limit or SAMPLES, config.subset))
    return [Request(item.id, item.content, (*before, *item.system)) for item in taken]


def ready(model: Model, request: Request) -> Ready:
    """A prompt with the features of its pictures, which all passes over it share."""
    prompt = model.prepare(request)
    return request, prompt, Vision(model, NoPruning(), FeatureCache(0), ignore).features([(request, prompt)])[0]


def prefill(model: Model, pruner: Pruner, sample: Ready) -> Prefilled:
    """One pass over a prompt under a method."""
    (done,) = Prefill(model, pruner.resolved(model.info), ignore).run([sample])
    return done


def left(model: Model, sample: Ready) -> Numbers:
    """Share of visual tokens that FitPrune's fit leaves at the entrance of every layer, for each of ALPHAS."""
    full, n = prefill(model, Spare(), sample), len(sample[1].visual)

    def total(signal: Signal) -> float:
        return float(full.records[0].read(signal, full.segment, full.segment.visual).double().sum())

    signals = [attention(layer) for layer in range(model.info.depth - 1)]
    masses = tuple((total(visual) / n, total(text)) for visual, text in signals)
    return [[k / n for k in prefill(model, Spare(alpha=alpha, masses=masses), sample).visual] for alpha in ALPHAS]


def schedules(pruner: FitPrune, found: Numbers) -> tuple[Rows, str]:
    """Shares left per layer for some budgets, those that the fit reaches."""
    least = min(sum(row) / len(row) for row in found)
    keeps = [pruner.keep] if pruner.keep else [keep for keep in KEEPS if keep >= least]
    shown = {keep: schedule(found, keep) for keep in keeps}
    rows = [
        {"layer": layer, **{f"keep={keep:.3g}": shares[layer] for keep, shares in shown.items()}}
        for layer in range(len(found[0]))
    ]
    return rows, f"share of visual tokens that enters each layer; keep= can be as low as {least:.3g}"


def divergence(model: Model, sample: Ready) -> Numbers:
    """KL(withdrawn || full) of the reply's first token, in nats, if all visual tokens leave before each layer."""
    full = prefill(model, NoPruning(), sample).logits.double().log_softmax(-1)
    without = (prefill(model, VTW(layer=layer), sample).logits for layer in range(model.info.depth))
    return [[float(kl_div(full, x.double().log_softmax(-1), reduction="sum", log_target=True)) for x in without]]


def withdrawals(pruner: VTW, found: Numbers) -> tuple[Rows, str]:
    """The divergence of every layer, and the first one that is small enough."""
    rows, layer = [{"layer": layer, "KL": kl} for layer, kl in enumerate(found[0])], first_below(found[0], pruner.eta)
    which = "no layer has" if layer is None else f"pruner.layer={layer} is the first with"
    return rows, f"{which} KL <= {pruner.eta or ETA:g}"


class Fit(NamedTuple):
    """What is measured on one sample, its name in the file, and what is shown of the mean over samples."""

    key: str
    measure: Callable[[Model, Ready], Numbers]
    table: Callable[[Any, Numbers], tuple[Rows, str]]


FITS: dict[type[Pruner], Fit] = {
    FitPrune: Fit("left", left, schedules),
    VTW: Fit("divergence", divergence, withdrawals),
}
