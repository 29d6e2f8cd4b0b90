"""Our engine inside lmms-eval: `python -m lmms_eval --model vtpbench --model_args model=...,pruner=... --tasks ...`.

Prompts, scores and logs are lmms-eval's; model, method and decoding are those of `vtpbench run protocol=lmms_eval`.
"""

from __future__ import annotations

import copy
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models import MODEL_REGISTRY_V2
from lmms_eval.utils import simple_parse_args_string
from loguru import logger
from tqdm import tqdm  # type: ignore[import-untyped]

from harness.engine.trace import Decoding, Picture, Request, Trace
from harness.runs.backend import TorchBackend
from harness.runs.cells import make_decoding, make_pruner, parse_config
from harness.runs.compose import Configs, compose_all
from harness.runs.config import RunConfig
from harness.runs.errors import InputError, Skip
from harness.runs.executors import Executor, Job, find_devices, local_executor, traces
from pruners.base import PrunerError

Message = Mapping[str, Any]
GROUPS = ("model", "pruner", "addon", "engine", "executor")
KEYS = (*GROUPS, "keep", "tokens", "seed", "protocol.system", "benchmark.lmms_model")
NUMBERS: dict[str, tuple[Callable[[float], bool], str]] = {
    "max_new_tokens": (lambda n: n >= 1 and n.is_integer(), "a whole number of at least 1"),
    "temperature": (math.isfinite, "a number (0: greedy)"),
    "top_p": (lambda n: n <= 1, "a number of at most 1 (0 or less: off)"),
    "top_k": (float.is_integer, "a whole number (0 or less: off)"),
    "repetition_penalty": (lambda n: n > 0, "a number above 0"),
    "presence_penalty": (math.isfinite, "a number"),
    "seed": (float.is_integer, "a whole number"),
    "num_beams": (lambda n: n == 1, "1: vtpbench has no beam search"),
}
"""Generation parameters that are numbers, and what they may be."""
PASSED_OVER = ("until", "do_sample")
"""Those that the adapters ignore; lmms-eval gives `until` to every task."""
GRID = "lmms-eval runs one model at a time: give each key of model_args one value; a comma ends an argument"


class VTPBench(lmms):  # type: ignore[misc]
    """A chat model of lmms-eval.

    It runs in one process, on the devices of `executor.gpus=`, or on lmms-eval's `--device`. Models are shared by all
    objects of a process, so that methods follow each other without loading again.

    Args:
        traces: file to which what was measured on each sample is appended, a JSON line each.
        batch_size, max_batch_size: of lmms-eval; `engine.slots=` decides instead, and results do not depend on it.
        device: of lmms-eval.
        arguments: overrides of `vtpbench run`: model, pruner, addon, keep, tokens, seed, engine.*, executor.*, and
            protocol.system and benchmark.lmms_model in place of those of protocol=lmms_eval.

    Raises:
        InputError: what is asked for does not exist or cannot be, in one line.
    """

    is_simple = False

    def __init__(
        self, *, traces: str | None = None, batch_size: object = None, max_batch_size: object = None,
        device: str | None = None, **arguments: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise InputError("vtpbench is one process: start it without accelerate or torchrun, GPUs by executor.gpus=")
        self.config = configure(arguments)
        try:
            self.pruner = make_pruner(self.config)
            self.pruner.check(TorchBackend().info(self.config.model))
        except (PrunerError, Skip) as error:
            raise InputError(str(error)) from None
        self.decoding = make_decoding(self.config, None)
        self.devices = (_device(device),) if device else tuple(find_devices(self.config.executor.gpus))
        self.traces = Path(traces) if traces else None
        if self.traces:
            self._keep([])
        self._told: set[str] = set()
        for text in self.config.protocol.assumed:
            logger.warning(f"protocol lmms_eval assumes: {text}")

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> VTPBench:
        """As lmms-eval calls it with its `--model_args`. Raises InputError."""
        try:
            arguments = simple_parse_args_string(arg_string)
        except ValueError:  # a part without "=", such as the second of keep=0.1,0.2
            raise InputError(f"cannot read model_args={arg_string}: {GRID}") from None
        return cls(**arguments | {key: value for key, value in (additional_config or {}).items() if value is not None})

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Replies in the order of the requests; one that fails is empty, and a warning names it."""
        results = [GenerationResult("")] * len(requests)
        groups: dict[Decoding, list[int]] = {}
        for i, instance in enumerate(requests):
            groups.setdefault(self._decoding(instance.args[2]), []).append(i)
        seen: Counter[str] = Counter()
        with tqdm(total=len(requests), desc="vtpbench") as bar:
            for decoding, numbers in groups.items():
                asked: dict[tuple[str, int], int] = {}
                waiting = self._requests(requests, numbers, asked, seen)
                job = Job(self.config.model, self.config.engine, self.pruner, decoding, None, waiting)
                for trace in traces(_executor(self.devices), job):
                    i = asked[trace.id, trace.repeat]
                    results[i] = _result(trace)
                    if self.traces:
                        _, _, _, doc_id, task, _ = requests[i].args
                        self._keep([trace.record() | {"task": task, "doc_id": doc_id}])
                    bar.update()
        return results

    def clean(self) -> None:
        """Nothing: lmms-eval calls it after each run, and the model stays for other tasks and methods."""

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError("vtpbench writes replies; tasks that compare likelihoods are not supported")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError("vtpbench answers one turn; tasks of several rounds are not supported")

    def _decoding(self, wanted: Mapping[str, Any]) -> Decoding:
        """A task's generation parameters as the adapters qwen3_vl, internvl_hf and llava read them.

        They sample if the temperature is above 0, whatever do_sample says, and ignore `until`. Numbers may be written
        as texts. Raises InputError.
        """
        given = {key: value for key, value in wanted.items() if value is not None}
        numbers = {key: _number(key, given[key]) for key in NUMBERS if key in given}
        for key in sorted(given.keys() - {*NUMBERS, *PASSED_OVER, "stop"}):
            self._tell(f"gen_kwargs {key} is ignored: vtpbench knows {', '.join((*NUMBERS, 'stop'))}")
        ours = self.decoding
        greedy = replace(
            ours, max_new_tokens=int(numbers.get("max_new_tokens", ours.max_new_tokens)),
            repetition_penalty=numbers.get("repetition_penalty", ours.repetition_penalty),
            presence_penalty=numbers.get("presence_penalty", ours.presence_penalty),
            stop=_texts(given.get("stop", ours.stop)),
        )  # fmt: skip
        temperature = numbers.get("temperature", 0.0)
        if temperature <= 0:
            return greedy
        if str(given.get("do_sample")).lower() == "false":
            self._tell(f"do_sample=False gives way to temperature={temperature:g}, as in lmms-eval's adapters")
        top_p, top_k = numbers.get("top_p", 1.0), int(numbers.get("top_k", 0))
        return replace(
            greedy, temperature=temperature, seed=int(numbers.get("seed", self.config.seed)),
            top_p=top_p if top_p > 0 else 1.0, top_k=max(top_k, 0),
        )  # fmt: skip

    def _tell(self, what: str) -> None:
        """Warn once."""
        if what not in self._told:
            self._told.add(what)
            logger.warning(what)

    def _requests(
        self, requests: Sequence[Instance], numbers: Sequence[int], asked: dict[tuple[str, int], int],
        seen: Counter[str],
    ) -> Iterator[Request]:  # fmt: skip
        """Requests made when they are taken, so that one batch of pictures at a time is in memory."""
        for i in numbers:
            _, doc_to_messages, _, doc_id, task, split = requests[i].args
            name = f"{task}/{doc_id}"
            try:
                messages = self._worded(doc_to_messages, task)(self.task_dict[task][split][doc_id])
            except Exception as error:  # a damaged picture, or whatever else a task runs into
                logger.warning(f"{name} failed, its answer is empty: {type(error).__name__}: {error}")
                continue
            system, content = _parts(messages)
            before = () if self.config.protocol.system is None else (self.config.protocol.system,)
            asked[name, seen[name]] = i
            yield Request(name, content, (*before, *system), repeat=seen[name])
            seen[name] += 1

    def _worded(self, doc_to_messages: Callable[..., list[Message]], task: str) -> Callable[..., list[Message]]:
        """The task's prompt for the adapter that we stand for.

        Tasks choose their prompt by the name after --model, so that ours would get the default one; the variants are
        still there, under `lmms_eval_specific_kwargs`.
        """
        adapter = self.config.benchmark.params.get("lmms_model", "default")
        owner: Any = getattr(doc_to_messages, "__self__", None)
        variants = getattr(owner, "lmms_eval_specific_kwargs", None) or {}
        if adapter == "default" or not isinstance(variants.get(adapter), Mapping):
            return doc_to_messages
        self._tell(
            f"{task} is asked by its prompt for {adapter}, although the input that lmms-eval logs is the default one; "
            "benchmark.lmms_model=default asks by that"
        )
        ours = copy.copy(owner)
        ours.lmms_eval_specific_kwargs = variants[adapter]
        worded: Callable[..., list[Message]] = ours.doc_to_messages
        return worded

    def _keep(self, lines: Sequence[Mapping[str, Any]]) -> None:
        assert self.traces
        try:
            self.traces.parent.mkdir(parents=True, exist_ok=True)
            with self.traces.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        except OSError as error:
            raise InputError(f"traces={self.traces} cannot be written: {error.strerror}") from None


@cache
def _executor(devices: tuple[str, ...]) -> Executor:
    """What runs samples there; it keeps its model as long as the same one is asked for."""
    return local_executor(TorchBackend(), list(devices))


def configure(arguments: Mapping[str, Any]) -> RunConfig:
    """The configuration of model_args under protocol=lmms_eval. Raises InputError."""
    for key in arguments:
        if key not in KEYS and key.partition(".")[0] not in GROUPS:
            raise InputError(f"unknown model_args {key}=; known: {', '.join(KEYS)}, traces; lmms-eval decides the rest")
    texts = [f"{key}={_text(value)}" for key, value in arguments.items()]
    # strict refuses the benchmarks that the protocol says nothing about; here tasks are lmms-eval's
    found = compose_all([*texts, "protocol=lmms_eval", "protocol.strict=false"], Configs.find())
    if len(found) != 1:
        raise InputError(f"model_args span {len(found)} cells: {GRID}")
    config = parse_config(found[0])
    adapter = config.benchmark.params.get("lmms_model", "default")
    if adapter not in ("default", *MODEL_REGISTRY_V2.list_model_names()):
        raise InputError(f"benchmark.lmms_model={adapter}: lmms-eval has no such model; default, qwen3_vl, llava, ...")
    return config


def _device(name: str) -> str:
    """The name, once torch has put something there. Raises InputError."""
    try:
        torch.empty(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device={name} cannot be used: {str(error).partition(chr(10))[0]}") from None
    return name


def _number(key: str, value: Any) -> float:
    """A generation parameter, also if it is written as text. Raises InputError."""
    fits, says = NUMBERS[key]
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and fits(number)):
        raise InputError(f"gen_kwargs {key}={value} must be {says}")
    return number


def _texts(stop: Any) -> tuple[str, ...]:
    """Stop strings, of which there may be one alone. Raises InputError."""
    found = (stop,) if isinstance(stop, str) else stop
    if not (isinstance(found, list | tuple) and all(isinstance(text, str) and text for text in found)):
        raise InputError(f"gen_kwargs stop={stop} must be a text or a list of texts")
    return tuple(found)


def _text(value: Any) -> str:
    """A value as it was typed, before lmms-eval read it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _parts(messages: Sequence[Message]) -> tuple[list[str], tuple[str | Picture, ...]]:
    """System texts, and the user's texts and pictures in order."""
    system: list[str] = []
    content: list[str | Picture] = []
    for message in messages:
        role, parts = message["role"], message["content"]
        for part in [{"type": "text", "text": parts}] if isinstance(parts, str) else parts:
            if (role, part["type"]) == ("system", "text"):
                system.append(part["text"])
            elif (role, part["type"]) == ("user", "text"):
                content.append(part["text"])
            elif (role, part["type"]) == ("user", "image"):
                content.append(Path(part["url"]) if isinstance(part["url"], str) else part["url"])
            else:
                raise NotImplementedError(f"vtpbench reads text and pictures: no {part['type']} of the {role}")
    return system, tuple(content)


def _result(trace: Trace) -> GenerationResult:
    if trace.finish == "error":
        logger.warning(f"{trace.id} failed, its answer is empty: {trace.error}")
        return GenerationResult("")
    counts = TokenCounts(trace.text_tokens + trace.visual_tokens, trace.new_tokens, trace.thinking_tokens)
    return GenerationResult(trace.text, counts)
