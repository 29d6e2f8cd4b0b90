"""The verb `plan`: what a grid will cost, before anything is downloaded or run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.filesize import decimal

from harness.cli_shared import epilog, terminal, whole
from harness.runs.compose import Configs, compose_all, split
from harness.runs.trusted import shown
from harness.runs.typed import build, check_keys, convert

if TYPE_CHECKING:
    from rich.table import Table

    from harness.runs.backend import Backend
    from harness.runs.cells import Plan, Resolver
    from harness.runs.outlook.forecast import Assume, Forecast

KEYS = {
    "gpu": "h200 (default), h100 or a100",
    "assume.efficiency": "share of the GPU's data sheet that a run reaches (0.5)",
    "assume.visual_tokens": "of a picture, unpruned; default: the benchmark's usual picture under the model's limits",
    "assume.text_tokens": "of a prompt; default: the benchmark's usual one",
    "assume.new_tokens": "of a reply; default: by the kind of benchmark, or the limit for models that think",
}
EPILOGS = {
    "plan": epilog(
        KEYS | {"...": "and all keys of run"},
        "plan experiment=dstp_table1 gpu=h100",
        "plan model=qwen3_vl_4b benchmark=mathverse protocol=dstp pruner=none,fastv keep=1/3 assume.new_tokens=2000",
    )
}
GIB = 1 << 30


def plan(arguments: argparse.Namespace, backend: Backend | None) -> int:
    """Print the cells of a grid, what is done of them and what the rest will cost."""

    from harness.runs.backend import TorchBackend
    from harness.runs.outlook.forecast import Assume, forecasts, gpu
    from harness.runs.outlook.planner import Planner

    own = {
        key: text for key, text in split(arguments.overrides)[1].items() if key.partition(".")[0] in ("gpu", "assume")
    }
    check_keys(own, KEYS, "")
    name = own.pop("gpu", "h200")
    gpu(name)
    assume = build(Assume, {key.partition(".")[2]: _number(key, text) for key, text in own.items()}, "assume")
    arguments.overrides = [text for text in arguments.overrides if text.partition("=")[0] not in KEYS]
    found = forecasts(resolved(arguments, Planner(backend or TorchBackend())).cells, name, assume)
    judged = any(one.judge_calls for one in found)
    order = list(dict.fromkeys(_place(one) for one in found))  # a grid may come back to a model and a benchmark
    with terminal(highlight=False) as console:
        for _, group in groupby(sorted(found, key=lambda one: order.index(_place(one))), _place):
            rows = list(group)
            console.print(*_heading(rows, name), sep="\n", style="bold", markup=False)
            console.print(_table(rows, judged))
        console.print(*_notes(found, name, assume), sep="\n", style="dim", markup=False)
        console.print(_total(found, name), markup=False)
    return 0


def resolved(arguments: argparse.Namespace, resolver: Resolver) -> Plan:
    """The cells of a command; says what is skipped and what protocols assume."""
    from harness.runs.skipped import in_full, summary

    found = resolver.plan(compose_all(arguments.overrides, Configs.find(arguments.config_dir)))
    said = dict.fromkeys(text for cell in found.cells for text in cell.config.protocol.said)
    for text in (*(in_full if arguments.skipped else summary)(found.skipped), *said):
        print(shown(text), file=sys.stderr)
    return found


def _place(one: Forecast) -> tuple[str, object]:
    return one.cell.rsplit("/", 2)[0], one.size


def _number(key: str, text: str) -> float | int:
    return float(convert(text, float, key)) if key == "assume.efficiency" else whole(text, key)


def _heading(rows: Sequence[Forecast], gpu: str) -> Iterator[str]:
    first = rows[0]
    model, benchmark, *_ = first.cell.split("/")
    yield f"{model}, {benchmark}"
    if (size := first.size) is not None:
        yield (
            f"  a sample: {size.visual} visual and {size.text} text tokens, a reply of {size.reply}, "
            f"at most {size.limit}"
        )
    if (room := first.memory) is not None:
        yield (
            f"  memory: {room.weights / GIB:.1f} GiB of weights, {room.slot / GIB:.2f} GiB a slot, "
            f"{room.slots} slots on one {gpu}"
        )


def _table(rows: Iterable[Forecast], judged: bool) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="not bold dim")
    table.add_column("  method", min_width=26, overflow="fold")
    heads = ["samples", "done", "visual tokens", "GPU hours", "disk", *(("judge calls", "USD") if judged else ())]
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        cells = [f"{row.samples}", f"{row.done}", _said(row.kept, "{:.0f}"), _hours(row), decimal(row.disk)]
        if judged:
            cells += [f"{row.judge_calls}", "unknown" if row.judge_usd is None else f"{row.judge_usd:.2f}"]
        table.add_row(f"  {row.cell.split('/')[2]}", *cells)
    return table


def _hours(row: Forecast) -> str:
    return _said(row.hours, "{:.3g}" if row.measured else "~{:.3g}")


def _said(value: float | None, form: str) -> str:
    return "unknown" if value is None else form.format(value)


def _notes(found: Sequence[Forecast], gpu: str, assume: Assume) -> Iterator[str]:
    """What the numbers rest on."""
    from harness.accounting.roofline import GPUS, PEAKS
    from harness.runs.outlook.forecast import LINE, LINE_TOKEN

    sheet = PEAKS[GPUS[gpu]]
    yield (
        f"- GPU hours: ~ is the least time by the {gpu}'s data sheet ({sheet.bandwidth / 1e12:g} TB/s, "
        f"{sheet.flops / 1e12:g} TFLOP/s), divided by assume.efficiency={assume.efficiency:g}, which nothing measured "
        "stands behind; without ~: the pace of earlier runs on that GPU"
    )
    yield from dict.fromkeys(f"- {one.cell.split('/')[1]}: {one.said}" for one in found if one.size)
    if any(one.size for one in found):
        yield (
            "- pictures have the benchmark's usual size, under the model's limits; keep= and tokens= hold from the "
            "first layer at which a method acts; what an add-on brings back is not counted"
        )
    unseen = dict.fromkeys(one.cell.split("/")[1] for one in found if one.unseen)
    if unseen:
        yield f"- samples by the benchmark's configuration, as the data is not here: {', '.join(unseen)}"
    yield f"- disk: bytes of a line in earlier runs, else {LINE} and {LINE_TOKEN} more for every token of the reply"
    for why in dict.fromkeys(one.why for one in found if one.why):
        yield f"- unknown for {_cells(sum(one.why == why for one in found))}: {why}"


def _total(found: Sequence[Forecast], gpu: str) -> str:
    hours = [one.hours for one in found if one.hours is not None]
    unknown = f" and {_cells(len(found) - len(hours))} unknown" if len(hours) < len(found) else ""
    calls, dollars = sum(one.judge_calls for one in found), sum(one.judge_usd or 0 for one in found)
    priced = all(one.judge_usd is not None for one in found)
    pace = [one.earlier for one in found if one.earlier is not None and not one.measured]
    parts = [
        f"{_cells(len(found))}, {sum(one.rest for one in found)} samples to run",
        f"{sum(hours):.3g} hours of one {gpu}{unknown}",
        f"{calls} judge calls, {f'{dollars:.2f}' if priced else 'unknown'} USD" if calls else "",
        f"{decimal(sum(one.disk for one in found))} of disk",
        f"about {sum(pace):.0f} s for {_cells(len(pace))} at the pace of earlier runs on other devices"
        if sum(pace)
        else "",
    ]
    return ", ".join(filter(None, parts))


def _cells(n: int) -> str:
    return "1 cell" if n == 1 else f"{n} cells"
