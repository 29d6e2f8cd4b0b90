"""What a user should know once: a slower path that was taken, and why."""

import logging
from functools import cache

_log = logging.getLogger("vtpbench")


@cache
def say_once(message: str) -> None:
    """Log a warning, the first time only that it is given."""
    _log.warning(message)


def told(error: Exception) -> str:
    """An error in one line, whether it has words or not."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
