"""Running a stored cell again: the same samples, several times, with several numbers of slots."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from harness.engine.trace import Request, Trace
from harness.runs.backend import Backend
from harness.runs.cells import Cell, Resolver
from harness.runs.config import RunConfig
from harness.runs.errors import InputError, Skip
from harness.runs.executors import Job, make_executor, traces
from harness.runs.log import Key, read_config, read_log
from harness.runs.progress import Display
from harness.runs.scores import ScoreSpec, score_line
from harness.runs.selection import select
from harness.runs.summary import failed
from harness.runs.trusted import check_targets
from harness.runs.typed import flatten

KEPT = {field.name for field in fields(RunConfig)}
"""Keys of config.yaml that a cell is made from; the others say what became of it."""


@dataclass(frozen=True)
class Reply:
    """What is compared of a reply: its answer (as read, else the verdict), and its text."""

    answer: object
    text: str


Run = dict[Key, Reply]
"""The replies of one run; samples that failed are not there."""


def stored_cell(folder: Path, backend: Backend, allowed: Collection[str] = ()) -> Cell:
    """The cell that a folder's config.yaml describes, which somebody else may have made.

    Args:
        allowed: packages, besides harness and pruners, whose classes it may name.

    Raises:
        InputError: it is no such folder, its model cannot be had, or what would run now is not what ran then.
    """
    stored = read_config(folder)
    check_targets(stored, allowed)
    groups = ("pruner", "addon", "benchmark")
    try:
        values = {key: value for key, value in stored.items() if key in KEPT}
        choices = {key: value["name"] for key, value in values.items() if isinstance(value, dict) and "name" in value}
        values |= {key: {k: v for k, v in values[key].items() if k != "name"} for key in groups}
        cell = Resolver(backend).cell(RunConfig.parse(values, choices))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder} was made by another version ({error!r}): run it again with resume=fresh") from None
    except Skip as skip:
        raise InputError(f"{folder}: {skip}") from None
    then, now = (dict(flatten(identity)) for identity in (stored["identity"], cell.identity))
    if changed := sorted(key for key in then.keys() | now.keys() if then.get(key) != now.get(key)):
        raise InputError(f"{folder}: what would run now is not what ran then; {', '.join(changed)} differ")
    return cell


def samples(folder: Path, cell: Cell, limit: int | None) -> list[Key]:
    """The samples that the cell has replies to; with a limit, those of them that it would take. Raises InputError."""
    items = cell.benchmark.outlines()
    chosen = {items[i].id for i in select(items, limit, cell.config.subset)}
    found = [key for key, record in read_log(folder).items() if key[0] in chosen and not failed(record)]
    if not found:
        raise InputError(f"{folder} has no replies yet" + (f" among its first {limit} samples" if limit else ""))
    return sorted(found, key=lambda key: (key[1], key[0]))


def runs(folder: Path, cell: Cell, backend: Backend, keys: Sequence[Key], n: int, slots: Sequence[int]) -> list[Run]:
    """The cell run n times with each number of slots, those of the first number first.

    Raises:
        InputError: the model cannot be had, or the engine broke.
    """
    config = cell.config
    executor, _ = make_executor(backend, config.executor)
    spec, found = ScoreSpec.read(folder), list[Run]()
    index = {item.id: i for i, item in enumerate(cell.benchmark.outlines())}
    try:
        passes = {f"{cell.name} {i}": number for i, number in enumerate(number for number in slots for _ in range(n))}
        with Display(list(passes)) as display:
            for name, number in passes.items():
                engine = replace(config.engine, slots=number)
                asked = _requests(cell, keys, index)
                display.start(name, 0, len(keys))
                replies: Run = {}
                for trace in traces(executor, Job(config.model, engine, cell.pruner, cell.decoding, None, asked)):
                    if trace.finish != "error":
                        replies[trace.id, trace.repeat] = _reply(cell, spec, index[trace.id], trace)
                    display.advance(name, None)
                display.end(name)
                display.say(f"{number} slots: {len(replies)} of {len(keys)} samples")
                found.append(replies)
    except RuntimeError as error:  # a worker's, or what cannot be deterministic
        raise InputError(f"{cell.name}: {error}") from error
    finally:
        executor.close()
    return found


def _requests(cell: Cell, keys: Sequence[Key], index: Mapping[str, int]) -> Iterator[Request]:
    every, system = cell.benchmark.items(), cell.config.protocol.system
    before = () if system is None else (system,)
    for sample, repeat in keys:
        item = every[index[sample]]
        yield Request(item.id, item.content, (*before, *item.system), needed=item.needed, repeat=repeat)


def _reply(cell: Cell, spec: ScoreSpec, number: int, trace: Trace) -> Reply:
    item = cell.benchmark.outlines()[number]
    about = {"answer": item.answer, "category": item.category, "cluster": item.cluster, "meta": item.meta}
    line = score_line(trace.record() | about, spec, None)
    verdict = (line["correct"], line["value"], line["lenient"])
    return Reply(verdict if line["extracted"] is None else line["extracted"], trace.text)
