"""The decode step as it is, or compiled, or compiled and captured in graphs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from harness.engine.memory import out_of_memory
from harness.engine.step import Step
from harness.notices import say_once, told
from pruners.views import StepView

BLOCK = 256
"""Entries to which captured steps round up what they attend to: each number of blocks has a graph of its own."""


class Graph(NamedTuple):
    """A captured step, and where it leaves its results."""

    graph: torch.cuda.CUDAGraph
    logits: Tensor
    view: StepView | None
    query: Tensor | None


class Runner:
    """Runs the step.

    Where it captures, lengths that are new run as they are, which also compiles; when they come again they are captured
    and from then on replayed. Graphs share one memory pool, and are dropped when buffers move.
    """

    def __init__(self, step: Step, compiled: bool, captured: bool) -> None:
        self.step, self.captured = step, captured
        self.forward = step.forward
        if compiled:
            self.forward = torch.compile(step.forward, fullgraph=True, options={"cpp_wrapper": not captured})
        self.graphs: dict[tuple[tuple[int, ...], int], Graph | None] = {}
        self.pool = torch.cuda.graph_pool_handle() if captured else None
        self.version: object = None
        if captured:
            step.cache.block = BLOCK

    def __call__(self, longest: tuple[int, ...], text: int) -> Tensor:
        """Logits [S, V] of the next step."""
        if not self.captured or self.step.watch is not None:
            return self._plain(longest, text)
        if self.version != self.step.version:
            self.graphs, self.version = {}, self.step.version
        if (longest, text) not in self.graphs:
            self.graphs[longest, text] = None
            return self._plain(longest, text)
        held = self.graphs[longest, text] or self._capture(longest, text)
        if held is None:
            return self._plain(longest, text)
        held.graph.replay()
        self.step.view, self.step.query = held.view, held.query
        return held.logits

    def _plain(self, longest: tuple[int, ...], text: int) -> Tensor:
        try:
            return self.forward(longest, text)
        except Exception as error:
            if self.forward == self.step.forward or out_of_memory(error):
                raise
            say_once(f"decode steps are not compiled, which is slower: {told(error)}")
            self.forward = self.step.forward
            return self.forward(longest, text)

    def _capture(self, longest: tuple[int, ...], text: int) -> Graph | None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                logits = self.forward(longest, text)
        except Exception as error:
            if out_of_memory(error):
                raise
            say_once(f"decode steps are not captured, which is slower: {told(error)}")
            self.captured = False
            return None
        held = self.graphs[longest, text] = Graph(graph, logits, self.step.view, self.step.query)
        return held
