"""Whether a folder holds the cell that its name stands for."""

from __future__ import annotations

from harness.runs.cells import Cell
from harness.runs.errors import InputError
from harness.runs.log import read_config
from harness.runs.typed import flatten


def check_identity(cell: Cell) -> None:
    """Raise InputError, with the keys, where the cell's folder was made for another identity: the name holds eight
    characters of it alone, and folders are copied and edited."""
    try:
        there = read_config(cell.folder)["identity"]
    except InputError:  # nothing yet, or nothing that can be read
        return
    own, other = dict(flatten(cell.identity)), dict(flatten(there))
    if differ := [key for key in dict.fromkeys([*own, *other]) if own.get(key) != other.get(key)]:
        raise InputError(
            f"{cell.folder / 'config.yaml'} is of another identity, which differs in {', '.join(differ)}: "
            "move that folder away"
        )
