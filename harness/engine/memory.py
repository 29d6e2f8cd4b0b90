"""What there is when memory runs out: how to tell, and which samples have no answer yet."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import torch

from harness.engine.trace import Request, Trace

_TOLD = ("can't allocate memory", "not enough memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
"""What torch says where its error has no class of its own: of a CPU's memory, and inside a GPU's libraries."""


def out_of_memory(error: BaseException) -> bool:
    """Whether there was too little memory for what was tried, of a GPU or of the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _TOLD)


class Unanswered(Iterator[Request]):
    """Requests, of which those that have no answer can be taken once more.

    open: those that were taken and have none, in this order.
    """

    def __init__(self, requests: Iterator[Request]) -> None:
        self._rest, self.open = requests, list[Request]()

    def __next__(self) -> Request:
        request = next(self._rest)
        self.open.append(request)
        return request

    def answered(self, trace: Trace) -> None:
        """A request has its trace. Another thread may take the next request meanwhile."""
        key = trace.id, trace.repeat
        del self.open[next(i for i, request in enumerate(self.open) if (request.id, request.repeat) == key)]

    def again(self) -> None:
        """Go on with those that have no answer."""
        self._rest, self.open = chain(self.open, self._rest), []
