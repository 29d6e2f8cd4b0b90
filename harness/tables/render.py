"""Tables as text: terminal, Markdown, LaTeX."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise

import pandas as pd
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from harness.runs.trusted import shown
from harness.tables.columns import COMPARISON, KEYS, Column, Row, Table

_GAP = 2
_FORMULA = re.compile(r"[=@\t\r]|[+-](?![\d.]+(e[+-]?\d+)?$|$)")
SIGNS = {"worse": "↓", "better": "↑", "equivalent": "=", "inconclusive": "?"}
_COLOURS = {"worse": "red", "better": "green", "equivalent": "cyan", "inconclusive": "dim"}
_COLOURS |= {SIGNS[verdict]: colour for verdict, colour in _COLOURS.items()}
_LATEX = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": "$<$",
        "Δ": r"$\Delta$",
        "±": r"$\pm$",
        "·": r"$\cdot$",
        "†": r"\textdagger{}",
        "↓": r"$\downarrow$",
        "↑": r"$\uparrow$",
        "×": r"$\times$",
    }
)

Widths = dict[tuple[tuple[str, str], int], int]
"""Width of a column by its heading and the rows that it was measured over: sections share them."""


def terminal(tables: Sequence[Table], notes: Sequence[str], command: str | None, console: Console) -> None:
    """Print sections, each in as many stacked blocks as the console's width asks for."""
    widths: Widths = {}
    for table in tables:
        console.print(Text(shown(table.title), style="bold"))
        for block in _blocks(table, console.width, widths):
            console.print(_rich(block, table.rows))
            console.print()
    for note in notes:
        console.print(Text(shown(note), style="dim"))
    if command:
        console.print(Text(f"$ {shown(command)}", style="dim"))


def markdown(tables: Sequence[Table], notes: Sequence[str], command: str | None, heading: str = "Leaderboard") -> str:
    """Two tables a section: the comparison, then replies, retention and cost."""
    out = [f"# {heading}", ""]
    if command:
        out += ["Made by", "", "```sh", shown(command), "```", ""]
    for table in tables:
        out += [f"## {tame(table.title)}", ""]
        for block in _halves(table.columns()):
            out += [*_markdown(block, table.rows), ""]
    return "\n".join([*out, *(f"- {tame(note.replace('|', ''))}" for note in notes)]) + "\n"


def latex(tables: Sequence[Table], notes: Sequence[str], command: str | None) -> str:
    """A `table*` a section with two tabulars; the notes follow the last one."""
    out = ["% needs \\usepackage{booktabs}"]
    out += [f"% {shown(command)}"] if command else []
    for table in tables:
        out += [r"\begin{table*}", r"\centering\small", rf"\caption{{{_escape(table.title)}}}"]
        out += ["\n\\par\\medskip\n".join(_tabular(block, table.rows) for block in _halves(table.columns()))]
        out += [r"\end{table*}"]
    return "\n".join([*out, rf"{{\footnotesize {_escape(' '.join(notes))}\par}}"]) + "\n"


def tame(text: str) -> str:
    """Text for Markdown, in one line and without tags of HTML and links that a page would follow."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", shown(text)).replace("](", "]\\(")


def csv(frame: pd.DataFrame) -> str:
    """A frame as CSV; a text that a spreadsheet would take for a formula begins with an apostrophe."""
    plain = frame.map(lambda value: f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value)
    return plain.to_csv(index=False, lineterminator="\n")


def _measure(column: Column, rows: Sequence[Row]) -> int:
    return max(cell_len(text) for text in (*column.head, *(shown(column.text(row)) for row in rows)))


def _blocks(table: Table, width: int, widths: Widths) -> list[list[Column]]:
    """Blocks of columns for a width; intervals are shortened where the comparison would not stay in one piece."""
    blocks = list(_pack(table.columns(), table.every, width, widths))
    if any(column.group == COMPARISON for block in blocks[1:] for column in block):
        return list(_pack(table.columns(brief=True), table.every, width, widths))
    return blocks


def _pack(columns: Sequence[Column], rows: Sequence[Row], width: int, widths: Widths) -> Iterator[list[Column]]:
    """Blocks that fit a width. Groups stay together where they can; the key columns open every block."""
    keys = [column for column in columns if column.group == KEYS]
    for column in columns:
        if (column.head, id(rows)) not in widths:
            widths[column.head, id(rows)] = _measure(column, rows) + _GAP
    size = {id(column): widths[column.head, id(rows)] for column in columns}
    free = width - sum(size[id(column)] for column in keys)
    block: list[Column] = []
    used = 0
    for _, members in groupby((c for c in columns if c.group != KEYS), key=lambda column: column.group):
        group = list(members)
        whole = sum(size[id(column)] for column in group)
        for column in group:
            start = column is group[0] and used + whole > free
            if block and (start or used + size[id(column)] > free):
                yield keys + block
                block, used = [], 0
            block.append(column)
            used += size[id(column)]
    yield keys + block


def _rich(columns: Sequence[Column], rows: Sequence[Row]) -> RichTable:
    table = RichTable(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    for column in columns:
        table.add_column("\n".join(column.head), justify="left" if column.left else "right", no_wrap=True)
    for row, last in zip(rows, _ends(rows), strict=True):
        texts = [shown(column.text(row)) for column in columns]
        coloured = (Text(text, style=_COLOURS.get(text.rpartition(" ")[2], "")) for text in texts)
        table.add_row(*coloured, end_section=last)
    return table


def _ends(rows: Sequence[Row]) -> list[bool]:
    """Whether each row is the last of its band, for tables that have bands."""
    return [row.get("band") != below.get("band") for row, below in pairwise(rows)] + [False] * bool(rows)


def _halves(columns: Sequence[Column]) -> list[list[Column]]:
    halves = [
        [column for column in columns if column.group == KEYS or (column.group == COMPARISON) is first]
        for first in (True, False)
    ]
    return [half for half in halves if any(column.group != KEYS for column in half)]


def _head(column: Column) -> str:
    return " ".join(filter(None, column.head))


def _markdown(columns: Sequence[Column], rows: Sequence[Row]) -> Iterator[str]:
    texts = [[_head(c), *(tame(c.text(row)).replace("|", "\\|") for row in rows)] for c in columns]
    widths = [max(map(len, column)) for column in texts]
    for i, line in enumerate(zip(*texts, strict=True)):
        padded = [x.ljust(w) if c.left else x.rjust(w) for x, w, c in zip(line, widths, columns, strict=True)]
        yield f"| {' | '.join(padded)} |"
        if i == 0:
            rules = ("-" * (w + 1) + ("-" if c.left else ":") for w, c in zip(widths, columns, strict=True))
            yield f"|{'|'.join(rules)}|"


def _tabular(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    lines = [[_head(column) for column in columns], *([column.text(row) for column in columns] for row in rows)]
    head, *body = (" & ".join(map(_escape, line)) + r" \\" for line in lines)
    body = [line + "\n\\midrule" * last for line, last in zip(body, _ends(rows), strict=True)]
    spec = "".join("l" if column.left else "r" for column in columns)
    return "\n".join(
        [rf"\begin{{tabular}}{{{spec}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    )


def _escape(text: str) -> str:
    return re.sub(r"(?<!\w)-(?=\d)", "$-$", shown(text).translate(_LATEX))  # a minus, not a hyphen
