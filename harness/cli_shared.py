"""What the verbs share: their help, the values of keys, and what they print and write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.runs.errors import InputError
from harness.runs.trusted import shown

if TYPE_CHECKING:
    from rich.console import Console

RESULTS = {"paths.results": "the results folder (results)"}


def epilog(keys: Mapping[str, str], *examples: str) -> str:
    """The help of a verb below its options."""
    width = max(map(len, keys)) + 1
    lines = ["keys:", *(f"  {f'{key}=':<{width}}  {text}" for key, text in keys.items())]
    return "\n".join([*lines, "", "examples:", *(f"  vtpbench {example}" for example in examples)])


def results_of(keys: Mapping[str, str]) -> Path:
    """The results folder that `paths.results=` names."""
    return Path(keys.get("paths.results", "results"))


def listed(keys: Mapping[str, str], key: str) -> tuple[str, ...]:
    """The values of a key that takes several, with commas; none if it is not given. Raises InputError."""
    if key not in keys:
        return ()
    names = tuple(keys[key].split(","))
    if not all(names):
        raise InputError(f"{key}= is empty")
    return names


def whole(text: str, key: str) -> int:
    """The number that a key is given. Raises InputError."""
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{key} must be a whole number, got {text!r}") from None


def write(path: Path, text: str) -> None:
    """A file, with its folders. Raises InputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


@contextmanager
def terminal(highlight: bool = True) -> Iterator[Console]:
    """A console whose text is printed at the end: by itself rich would end the program where a pipe is closed."""
    from rich.console import Console

    with (console := Console(highlight=highlight)).capture() as text:
        yield console
    print(text.get(), end="")


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """Rows as plain text, one line each whatever the width of the terminal; numbers to the right."""
    lines = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    left = [isinstance(value, str) for value in rows[0].values()]
    for line in lines:
        cells = zip(line, widths, left, strict=True)
        print("  ".join(text.ljust(w) if to_left else text.rjust(w) for text, w, to_left in cells).rstrip())


def _text(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else shown(str(value))
