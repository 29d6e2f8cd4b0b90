"""Figures of several methods side by side, the unpruned model first, each gain with its ceiling."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.accounting.roofline import Peak, peak
from harness.engine.bench.measure import MEMORIES, Measured

Line = list[str]
UNKNOWN, ABSENT = "unknown", "-"


@dataclass
class Table:
    """What was measured of one model in one setting.

    Attributes:
        found: the unpruned model first. left: methods that cannot act here, with the reason.
        half: whether the model computes in 16 bits, in which devices' peaks are told.
    """

    model: str
    device: str
    machine: str
    weights: str
    half: bool
    found: list[Measured]
    left: dict[str, str]

    @property
    def title(self) -> str:
        """What the figures belong to."""
        s = self.found[0].setting
        return (
            f"{self.model} ({self.weights} weights): {s.visual_tokens} visual + {s.text_tokens} text tokens, "
            f"{s.new_tokens} new, {s.slots} at a time"
        )

    def lines(self) -> list[Line]:
        """A header, then a line per figure with a cell per method."""
        known = peak(self.device)
        rows = [[label, *(cell(m, self.found[0], known) for m in self.found)] for label, cell in self._cells()]
        return [["", *(m.method for m in self.found)], *(row for row in rows if set(row[1:]) != {ABSENT})]

    def _cells(self) -> list[tuple[str, Callable[[Measured, Measured, Peak | None], str]]]:
        return [
            ("first token of one sample, ms", lambda m, f, p: ms(m.ttft)),
            ("  faster than unpruned, x", lambda m, f, p: ratio(f.ttft, m.ttft)),
            ("first tokens of all slots, ms a sample", lambda m, f, p: ms(m.prefill)),
            ("  faster than unpruned, x", lambda m, f, p: ratio(f.prefill, m.prefill)),
            ("  at most, by FLOPs, x", lambda m, f, p: ratio(f.input_flops, m.input_flops)),
            ("  at most, without visual tokens, x", lambda m, f, p: ratio(f.input_flops, m.blind_flops)),
            ("  arithmetic, % of the device", lambda m, f, p: share(m.prefill, self._prefill_share(m, p), p)),
            ("  the method's own, ms", lambda m, f, p: ms(m.selection)),
            ("decode step, median, ms", lambda m, f, p: ms(m.step)),
            ("  faster than unpruned, x", lambda m, f, p: ratio(f.step, m.step)),
            ("  at most, by bytes, x", lambda m, f, p: ratio(f.step_bytes, m.step_bytes)),
            ("  bandwidth, % of the device", lambda m, f, p: share(m.step, self._bytes_share(m, p), p)),
            ("  arithmetic, % of the device", lambda m, f, p: share(m.step, self._step_share(m, p), p)),
            ("decode step, mean, ms", lambda m, f, p: ms(m.step_mean)),
            ("  re-selections a reply", lambda m, f, p: plain(m.triggers or None)),
            ("  what one adds, ms", lambda m, f, p: ms(m.trigger)),
            ("new tokens a second", lambda m, f, p: plain(m.tokens_per_second)),
            ("peak memory of tensors, MB", lambda m, f, p: mb(m.peak_memory)),
            ("  of the unpruned model's, x", lambda m, f, p: ratio(m.peak_memory, f.peak_memory)),
            *((f"KV cache a sample, {kind}, MB", _kv(kind)) for kind in ("visible", "resident", "allocated")),
            *((f"TFLOPs a sample, {part}", _flops(part)) for part in ("vision", "prefill", "decode")),
            *((f"TFLOPs a sample, {part}", _overhead(part)) for part in ("selection", "monitor", "recall")),
            ("visual tokens seen in prefill, %", lambda m, f, p: f"{100 * m.ret_prefill:.3g}"),
            ("visual keys read in a step, %", lambda m, f, p: f"{100 * m.ret_decode:.3g}"),
            *((f"slots in {size} GiB", _slots(size)) for size in MEMORIES),
            *((f"  new tokens a second in {size} GiB", _there(size)) for size in MEMORIES),
        ]  # fmt: skip

    def _prefill_share(self, m: Measured, known: Peak | None) -> float | None:
        done = m.input_flops + m.overhead["selection"]
        return per(done, m.prefill, known.flops) if known and self.half else None

    def _bytes_share(self, m: Measured, known: Peak | None) -> float | None:
        return per(m.step_bytes, m.step, known.bandwidth) if known else None

    def _step_share(self, m: Measured, known: Peak | None) -> float | None:
        done = m.setting.slots * (m.flops["decode"] + m.overhead["monitor"]) / max(1, m.steps)
        return per(done, m.step, known.flops) if known and self.half else None

    def record(self) -> dict[str, Any]:
        """As plain data."""
        about = {"model": self.model, "weights": self.weights, "device": self.device, "machine": self.machine}
        return {**about, "methods": [m.record() for m in self.found], "left": self.left}

    def notes(self) -> list[str]:
        """What else a reader has to know."""
        timed = self.found[0].ttft is not None
        known = (
            [f"{self.device}: its bandwidth and its peak are not known here"] if timed and not peak(self.device) else []
        )
        if self.device.startswith("CPU"):
            known.append("peak memory: every tensor is followed, but not what operations hold for themselves")
            known.append("ceilings by bytes hold where bandwidth decides; here a step computes on a multiple of 8 rows")
        if not timed and any(m.looked for m in self.found):
            known.append("without values, a method that chooses while decoding is counted as if it showed everything")
        return [f"Machine: {self.machine}", *known, *(f"{name}: {why}" for name, why in self.left.items())]


def plain(value: float | None, scale: float = 1.0) -> str:
    return ABSENT if value is None else f"{value * scale:.4g}"


def ms(seconds: float | None) -> str:
    return plain(seconds, 1e3)


def mb(count: float | None) -> str:
    return plain(count, 1e-6)


def ratio(full: float | None, pruned: float | None) -> str:
    return ABSENT if not full or not pruned else f"{full / pruned:.2f}"


def per(work: float, seconds: float | None, best: float) -> float | None:
    return work / seconds / best if seconds else None


def share(seconds: float | None, value: float | None, known: Peak | None) -> str:
    """Of what a device can do; unknown where something was timed, but not its peak is known."""
    return ABSENT if seconds is None else UNKNOWN if known is None else plain(value, 100)


def _kv(kind: str) -> Callable[[Measured, Measured, Peak | None], str]:
    return lambda m, f, p: mb(m.kv_bytes[kind])


def _flops(part: str) -> Callable[[Measured, Measured, Peak | None], str]:
    return lambda m, f, p: plain(m.flops[part], 1e-12)


def _overhead(part: str) -> Callable[[Measured, Measured, Peak | None], str]:
    return lambda m, f, p: plain(m.overhead[part] or None, 1e-12)


def _slots(size: int) -> Callable[[Measured, Measured, Peak | None], str]:
    return lambda m, f, p: str(m.slots_in[size][0])


def _there(size: int) -> Callable[[Measured, Measured, Peak | None], str]:
    def cell(m: Measured, f: Measured, p: Peak | None) -> str:
        found = m.slots_in[size][1]
        return "not measured" if found is None else f"{found:.4g}"

    return cell


def text(table: Table) -> str:
    """For a terminal: labels to the left, figures to the right."""
    lines = table.lines()
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in lines]
    return "\n".join([table.title, "", *shown, "", *table.notes(), ""])


def markdown(table: Table) -> str:
    """The same for a page."""
    head, *rows = [[cell.replace("  ", "&nbsp;&nbsp;") for cell in line] for line in table.lines()]
    rule = ["---", *("---:" for _ in head[1:])]
    shown = [f"| {' | '.join(line)} |" for line in (head, rule, *rows)]
    return "\n".join([f"## {table.title}", "", *shown, "", *(f"- {note}" for note in table.notes()), ""])


def written(tables: Sequence[Table], kind: str) -> str:
    """All tables as "text", "md" or "json"."""
    if kind == "json":
        return json.dumps([table.record() for table in tables], indent=1) + "\n"
    return "\n".join((markdown if kind == "md" else text)(table) for table in tables)
