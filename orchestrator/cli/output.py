"""What verbs print: one JSON document for machines, tables and lines for people.

Whatever came from outside is escaped for people, and ASCII in JSON, so that a name of an org cannot
command the terminal of an operator.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from orchestrator.text import age, decoded, instant, printable

__all__ = [
    "age",
    "cell",
    "decoded",
    "document",
    "facts",
    "instant",
    "note",
    "say",
    "table",
]

# Where no terminal limits the width, a row stays on its line, for grep.
_PIPE_WIDTH = 400


def document(value: Any) -> None:
    """Print `value` as one JSON document: dataclasses by field, instants in ISO 8601 UTC."""
    sys.stdout.write(json.dumps(value, default=_jsonable, indent=2, allow_nan=False) + "\n")


def _jsonable(value: Any) -> Any:
    if isinstance(value, datetime):
        return instant(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    return str(value)


def say(text: str) -> None:
    """Print one line for people."""
    sys.stdout.write(printable(text) + "\n")


def note(text: str) -> None:
    """Print one line beside the result, on stderr."""
    sys.stderr.write(printable(text) + "\n")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under their columns; numbers to the right, None as a dash."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [[cell(value) for value in row] for row in rows]
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        numeric = bool(cells) and all(_is_number(row[number]) for row in cells)
        made.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        made.add_row(*map(Text, row))
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, emoji=False, width=_PIPE_WIDTH)
    with console.capture() as captured:
        console.print(made)
    # Rich pads every line to the width of the table.
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def facts(pairs: Mapping[str, object]) -> None:
    """Print names and values, one pair a line, the values aligned."""
    width = max(map(len, pairs)) + 2
    for name, value in pairs.items():
        say(f"{name:<{width}}{cell(value)}")


def cell(value: object) -> str:
    """Return a value as people read it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return instant(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}"
    return printable(str(value))


def _is_number(text: str) -> bool:
    return text == "-" or text.removeprefix("~").replace(",", "").replace(".", "").isdigit()
