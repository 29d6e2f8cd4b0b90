"""Whether compiled and captured decode steps compute what plain ones do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.engine.bench.prompt import make_prompt
from harness.engine.engine import Engine
from harness.engine.run import Run
from harness.engine.trace import Decoding, Request
from harness.models.base import Model, Prompt
from pruners.base import Pruner

FLOAT32, HALF = 1e-3, 0.05
"""Largest difference of logits over the largest logit; in 16 bits, rounding alone makes some hundredths."""


@dataclass(frozen=True)
class Check:
    """What came of it.

    Attributes:
        path: how the fast steps ran: "compiled", "compiled and captured", ...
        difference: largest difference of logits, over the largest logit, on the plain run's tokens.
        agree: share of the tokens that are equal where both choose by themselves.
        ties: the first tokens that are not equal were near ties, all of them.
    """

    method: str
    path: str
    difference: float
    agree: float
    ties: bool
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.ties and self.difference <= self.tolerance


def steps_agree(
    model: Model, pruner: Pruner, name: str, *, visual: int, text: int, new: int, slots: int, compiled: bool = True
) -> Check:  # fmt: skip
    """Run prompts of unequal lengths both ways: freely, and on the plain run's tokens with all logits compared."""
    pruner.check(model.info)
    prompts = [make_prompt(model, visual, text + i) for i in range(slots)]
    slow = _Way(model, pruner.resolved(model.info), prompts, new, fast=False, compiled=False)
    quick = _Way(model, pruner.resolved(model.info), prompts, new, fast=True, compiled=compiled)
    chosen, again = slow.tokens(), quick.tokens()
    plain, other = slow.logits(chosen), quick.logits(chosen)
    scale = float(plain.abs().max())
    tolerance = FLOAT32 if model.dtype == torch.float32 else HALF
    ties = True
    for row, (mine, theirs) in enumerate(zip(chosen, again, strict=True)):
        at = next((i for i, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b), None)
        if at is not None:
            ties &= float(plain[row, at, mine[at]] - plain[row, at, theirs[at]]) <= 2 * tolerance * scale
    equal = [a == b for pair in zip(chosen, again, strict=True) for a, b in zip(*pair, strict=True)]
    difference = float((plain - other).abs().max()) / scale
    return Check(name, quick.path, difference, sum(equal) / len(equal), ties, tolerance)


class _Way:
    """One of the two ways to run the same prompts."""

    def __init__(
        self, model: Model, pruner: Pruner, prompts: Sequence[Prompt], new: int, *, fast: bool, compiled: bool
    ) -> None:  # fmt: skip
        self.pruner, self.prompts, self.decoding = pruner, prompts, Decoding(max_new_tokens=new, ignore_eos=True)
        self.engine = Engine(model, slots=len(prompts), feature_cache_mb=0, ahead=False, compiled=compiled)
        self.engine.captured &= fast
        self.seen: dict[str, list[Tensor]] = {}
        self.path = ""

    def _run(self, forced: Sequence[Sequence[int]]) -> list[list[int]]:
        torch._dynamo.reset()
        run = _Fixed(self.engine, self.pruner, self.decoding, None, self._listen if forced else None)
        run.prompts = self.prompts
        asked = [
            Request(str(i), ("word",), forced=tuple(forced[i]) if forced else ()) for i in range(len(self.prompts))
        ]
        traces = {trace.id: trace for trace in run.traces(iter(asked))}
        if failed := next((trace.error for trace in traces.values() if trace.error), None):
            raise RuntimeError(failed)
        runner = run.decode.run
        ways = [*(["compiled"] if runner.forward != run.decode.step.forward else [])]
        ways += ["captured"] if any(graph is not None for graph in runner.graphs.values()) else []
        self.path = " and ".join(ways) or "plain"
        return [traces[request.id].token_ids for request in asked]

    def _listen(self, request: Request, logits: Tensor) -> None:
        self.seen.setdefault(request.id, []).append(logits.float().cpu())

    def tokens(self) -> list[list[int]]:
        """What is chosen freely."""
        return self._run([])

    def logits(self, forced: Sequence[Sequence[int]]) -> Tensor:
        """[samples, tokens, V] on given tokens."""
        self.seen = {}
        self._run(forced)
        return torch.stack([torch.stack(self.seen[str(i)]) for i in range(len(self.prompts))])


class _Fixed(Run):
    """Runs prompts that are made already, by the number of the request."""

    prompts: Sequence[Prompt]

    def _prepare(self, request: Request) -> Prompt:
        return self.prompts[int(request.id)]
