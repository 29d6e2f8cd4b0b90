"""What interrupts a command: Ctrl-C, and SIGTERM, which schedulers send."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """SIGTERM has come. Like Ctrl-C it passes by whoever handles errors, and everything is closed on its way."""


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM ends the command as Ctrl-C does; in a thread, which gets no signals, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _raise(number: int, frame: FrameType | None) -> None:
    raise Interrupted
