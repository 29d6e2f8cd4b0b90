"""Mathematical equality by math-verify, in processes of their own that are limited in time and memory.

Never in a thread: math-verify's own time limits need a main thread, and fail without a word elsewhere. Not in a pool of
`multiprocessing` either: its processes start from the caller's main module, load torch, and are denied to daemons.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

WORKER = Path(__file__).with_name("maths_worker.py")
DECIMALS = 6
"""math-verify's own precision where numbers with decimals are compared."""

SIGNS = {
    "−": "-", "–": "-", "π": r"\pi ", "×": r"\times ", "·": r"\cdot ", "÷": "/", "∞": r"\infty ", "≤": r"\le ",
    "≥": r"\ge ", "∪": r"\cup ", "²": "^2", "³": "^3", "°": "", "\n": " ", r"\$": "",
}  # fmt: skip
ROOT = re.compile(r"√\s*(\d+|[a-zA-Z]|\([^()]*\))")
UNIT = re.compile(r"(?<=[\d}) ])(?:[kcdm]?m|ft|in|yd|mi|units?)(?:\s*\^\s*\{?[23]\}?|\s*/\s*\w+)$")
"""Powers and ratios of units; math-verify leaves the plain ones out by itself."""
POWER_OF_TEN = re.compile(r"(?<=\d)[eE]([+-]?\d+)\b")
PERCENT = re.compile(r"\s*(?:\\?%|per ?cent)$")
LONGEST = 300
"""Characters; what is longer, or says one thing twenty times, is a stuck model's, and takes math-verify seconds."""
LOOP = re.compile(r"(.{1,20}?)\1{19}", re.S)
MATHEMATICAL = re.compile(r"[\d\\=<>^/*+]")


def equal(reference: str, answer: str, *, decimals: int = DECIMALS, seconds: float = 5.0) -> bool | None:
    """Whether two expressions are equal, as `math_verify.verify` says of what `math_verify.parse` reads.

    Signs such as √ and °, percentages, and units with powers are brought into LaTeX first. Words are not expressions:
    they must be equal as texts ("listen" and "silent" are the same product of variables). So must what is
    very long or repeats itself.

    Args:
        reference: the expected expression, LaTeX or plain, with or without dollars.
        answer: the same of the reply; no sentence.
        decimals: where one side is a decimal number, both are rounded to so many decimals.
        seconds: of processor time; at most ten times as long in all.

    Returns:
        None if a limit of time or memory was hit. Safe to call from any thread and process.
    """
    if max(len(reference), len(answer)) > LONGEST or LOOP.search(answer):
        return reference.strip() == answer.strip()
    ours, theirs = latex(reference), latex(answer)
    if not ours or not theirs or ours == theirs:
        return bool(ours) and ours == theirs
    if not (MATHEMATICAL.search(ours) and MATHEMATICAL.search(theirs)):
        return ours.casefold() == theirs.casefold()
    return _workers.ask(ours, theirs, decimals, seconds)


def latex(text: str) -> str:
    """An expression between dollars, as math-verify reads it best; empty if there is none."""
    for sign, command in SIGNS.items():
        text = text.replace(sign, command)
    if text.count("$") == 1:  # an amount of money
        text = text.replace("$", "")
    text = POWER_OF_TEN.sub(r"\\times 10^{\1}", ROOT.sub(r"\\sqrt{\1}", text)).strip().removesuffix(".").strip()
    if "$" in text or r"\(" in text or r"\[" in text or r"\boxed" in text:
        return text
    body = PERCENT.sub("", text)
    percent = "%" if body != text else ""
    body = UNIT.sub("", body).strip()
    return f"${body}${percent}" if body else ""


class _Worker:
    """A process that compares; it is gone once a question has hit a limit."""

    def __init__(self) -> None:
        command = [sys.executable, "-P", str(WORKER)]  # -P: the files beside the script are not top-level modules
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="ascii"
        )
        if not self._reply():
            raise RuntimeError(f"math-verify does not start; see what this says: {' '.join(command)}")

    def ask(self, *question: str | float) -> bool | None:
        assert self.process.stdin
        try:
            print(json.dumps(question), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            return None
        reply = self._reply()
        return bool(json.loads(reply)) if reply else None

    def _reply(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline()

    def end(self) -> None:
        self.process.kill()
        with self.process:  # closes the pipes and waits
            pass


class _Workers:
    """Idle processes, for the next thread that needs one; as many run as there are processors."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start anew; after a fork the processes are still the parent's."""
        self.idle: list[_Worker] = []
        self.places = threading.BoundedSemaphore(os.cpu_count() or 1)

    def ask(self, *question: str | float) -> bool | None:
        with self.places:
            worker = self._take()
            try:
                verdict = worker.ask(*question)
            except BaseException:  # its reply would be taken for that to the next question
                worker.end()
                raise
            if verdict is None:
                worker.end()
            else:
                self.idle.append(worker)
            return verdict

    def _take(self) -> _Worker:
        while True:
            try:
                worker = self.idle.pop()
            except IndexError:
                return _Worker()
            if worker.process.poll() is None:
                return worker
            worker.end()

    def end(self) -> None:
        while self.idle:
            self.idle.pop().end()


_workers = _Workers()
atexit.register(_workers.end)
os.register_at_fork(after_in_child=_workers.forget)
