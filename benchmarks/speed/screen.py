"""A result on the terminal: the setting, the tables, the notes, and the bars last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Drawn

from benchmarks.estimates import Bar
from benchmarks.speed.record import Record
from benchmarks.speed.suite import Outcome, told
from benchmarks.speed.tables import Table, tables
from benchmarks.text import interval, label, number

# Where the output is no terminal, its width says nothing; a table that is cut is worth nothing.
_PIPED_WIDTH = 160


class NamedBar(NamedTuple):
    """A bar and the benchmark that it belongs to."""

    benchmark: str
    bar: Bar


def console() -> Console:
    """Return where results are shown."""
    shown = Console(highlight=False)
    if not shown.is_terminal:
        shown.width = _PIPED_WIDTH
    return shown


def show(record: Record, to: Console) -> None:
    """Show one benchmark."""
    result = record.result
    to.print(f"[bold]{escape(result.title)}[/]  ({record.seconds:.0f} s)")
    to.print(f"{escape(result.setting.rstrip('.'))}.\n")
    for table in tables(result):
        to.print(_drawn(table))
    for note in result.notes:
        to.print(f"- {escape(note)}")
    show_bars([NamedBar(result.name, bar) for bar in result.bars], to)


def show_all(outcomes: Sequence[Outcome], to: Console) -> None:
    """Show several benchmarks, then all their bars, then those that failed."""
    records = [outcome.record for outcome in outcomes if outcome.record]
    for record in records:
        show(record, to)
        to.print()
    bars = [NamedBar(r.result.name, bar) for r in records for bar in r.result.bars]
    if len(records) > 1 and bars:
        to.rule("all bars")
        show_bars(bars, to)
    for outcome in outcomes:
        if outcome.record is None:
            to.print(f"[bold red]{escape(told(outcome))}[/]")


def show_bars(bars: Sequence[NamedBar], to: Console) -> None:
    """Show bars with their verdicts, and under them what is known about the missed ones."""
    if not bars:
        return
    drawn = Drawn("benchmark", "bar", "wanted", "measured", "interval", "verdict")
    for name, bar in bars:
        verdict = "[green]met[/]" if bar.passed else "[bold red]missed[/]"
        middle = number(bar.measured.mean)
        drawn.add_row(
            name, escape(label(name, bar)), bar.wanted, middle, interval(bar.measured), verdict
        )
    to.print(drawn)
    for _, bar in bars:
        if bar.why and not bar.passed:
            to.print(f"- {escape(bar.name)}: {escape(bar.why)}")


def _drawn(table: Table) -> Drawn:
    drawn = Drawn()
    for place, column in enumerate(table.columns):
        drawn.add_column(escape(column), justify="left" if place < table.names else "right")
    for row in table.rows:
        drawn.add_row(*map(escape, row))
    return drawn
