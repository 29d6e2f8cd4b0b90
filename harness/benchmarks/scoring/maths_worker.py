"""The process behind `harness.benchmarks.scoring.maths`: a script on its own, so that it starts without torch.

It reads one question a line from its standard input, [reference, answer, decimals, seconds] in JSON, and writes true
or false. The system ends it when a question takes too long; it ends itself when its input is closed.
"""

from __future__ import annotations

import json
import logging
import resource
import signal
import sys

MEMORY = 1 << 30
"""Bytes of address space; some 80 MB are taken once math-verify is loaded."""
WALL = 10
"""Limit of elapsed time, as a multiple of the limit of processor time."""


def limit(seconds: float) -> None:
    """Let the system end this process after so many seconds of processor time; 0: never.

    The signals keep their default action, which interrupts compiled code as well. Processor time makes verdicts
    independent of the load of the machine; elapsed time is limited for the sake of a process that waits for memory.
    """
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, WALL * seconds)


def main() -> None:
    """Answer questions until the input ends."""
    limit(60)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    replies, sys.stdout = sys.stdout, sys.stderr  # libraries may print

    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify  # type: ignore[import-untyped]

    logging.disable()  # it warns that its own time limits, which need a main thread, are off
    targets = (LatexExtractionConfig(), ExprExtractionConfig())
    print("ready", file=replies, flush=True)
    limit(0)
    for line in sys.stdin:
        reference, answer, decimals, seconds = json.loads(line)
        limit(seconds)
        gold, said = (parse(text, targets, parsing_timeout=None) for text in (reference, answer))
        same = verify(gold, said, float_rounding=decimals, timeout_seconds=None)
        limit(0)
        print(json.dumps(bool(same)), file=replies, flush=True)


if __name__ == "__main__":
    main()
