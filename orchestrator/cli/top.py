"""`top`: one queue at a glance, again and again: how it does, and who gets what."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli import output, values
from orchestrator.cli.setup import Setup
from orchestrator.cli.verb import AsJson, verb
from orchestrator.errors import DatabaseUnavailable, InvalidInput, UnknownQueue

if TYPE_CHECKING:
    from rich.live import Live

    from orchestrator.cli.top_screen import View
    from orchestrator.model import QueueConfig
    from orchestrator.store.overview import Overview

_INTERVAL_MIN_S = 0.2
_ARROWS = {"\x1b[A": "up", "\x1bOA": "up", "\x1b[B": "down", "\x1bOB": "down"}


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    verb(
        app,
        "top",
        "orchestrator top",
        "orchestrator top --queue renders --interval 500ms",
        "orchestrator top --json",
    )(top)


def top(
    setup: Setup,
    queue: Annotated[str | None, typer.Option(help="Begin with this queue.")] = None,
    interval: Annotated[
        str, typer.Option(metavar="TIME", help="Time between looks, 200ms or more.")
    ] = "2s",
    once: Annotated[bool, typer.Option("--once", help="Show it once and end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Watch a queue: five numbers, the pace, what is wrong, and what each org gets.

    Keys: q ends it, n goes to the next queue, s sorts the orgs by another column, the arrows scroll
    them, and the space bar holds the picture still. Where the output is no terminal, it is shown
    once. Looking costs the database the same however much is staged or in flight.
    """
    interval_s = values.duration("--interval", interval)
    if interval_s is None or interval_s < _INTERVAL_MIN_S:
        raise InvalidInput(f"--interval is 200ms or more, not {interval!r}")
    with setup.database() as dsn, closing(_Looking(setup, dsn, queue)) as looking:
        if as_json:
            from orchestrator.cli.top_screen import document

            output.document(document(looking.look()))
        elif once or not (sys.stdout.isatty() and sys.stdin.isatty()):
            _show_once(looking.look())
        else:
            _watch(looking, interval_s)


class _Looking:
    """Reads overviews over a connection of its own, which it opens again when it was lost."""

    def __init__(self, setup: Setup, dsn: str, first: str | None) -> None:
        self._setup = setup
        self._dsn = dsn
        self._wanted = first
        self._connection: Any = None

    def look(self) -> Overview:
        """Return the queue as it is now; raise `DatabaseUnavailable`, `UnknownQueue`."""
        from psycopg import IsolationLevel

        from orchestrator.cli.setup import demand_schema
        from orchestrator.store.overview import overview
        from orchestrator.store.sql import run, translated

        with translated():
            if self._connection is None or self._connection.closed:
                self._connection = self._setup.connect(self._dsn)
                demand_schema(self._connection)
                # One snapshot, so that the numbers fit each other.
                self._connection.isolation_level = IsolationLevel.REPEATABLE_READ
            chosen = self._chosen(self._queues())
            with self._connection.transaction():
                found: Overview = run(self._connection, overview(chosen))
            return found

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()

    def go_on(self) -> None:
        """Go to the next queue."""
        names = [each.name for each in self._queues()]
        at = names.index(self._wanted) if self._wanted in names else 0
        self._wanted = names[(at + 1) % len(names)]

    def _queues(self) -> Sequence[QueueConfig]:
        from orchestrator.store import leadership
        from orchestrator.store.sql import run

        found: Sequence[QueueConfig] = run(self._connection, leadership.queues())
        return found

    def _chosen(self, queues: Sequence[QueueConfig]) -> QueueConfig:
        if self._wanted is None:
            return queues[0]
        for each in queues:
            if each.name == self._wanted:
                return each
        raise UnknownQueue(f"no queue {self._wanted!r}: `orchestrator queue list` names them")


def _show_once(found: Overview) -> None:
    from rich.console import Console

    from orchestrator.cli.top_screen import View, picture

    console = Console(markup=False, highlight=False, emoji=False)
    width = console.width if console.is_terminal else 100
    console = Console(markup=False, highlight=False, emoji=False, width=width)
    console.print(picture(found, View(), rows=len(found.status.orgs)))


def _watch(looking: _Looking, interval_s: float) -> None:
    from rich.console import Console
    from rich.live import Live

    from orchestrator.cli.top_screen import View

    console = Console(markup=False, highlight=False, emoji=False)
    view = View()
    found = looking.look()
    with _keys(), Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            _draw(live, found, view)
            if not _obey(interval_s, looking, view, live, found):
                return
            if not view.held:
                found = _look_again(looking, view, found)


def _look_again(looking: _Looking, view: View, found: Overview) -> Overview:
    try:
        found, view.trouble = looking.look(), None
    except DatabaseUnavailable as error:
        # The last picture stays, and says why.
        view.trouble = str(error)
    return found


def _draw(live: Live, found: Overview, view: View) -> None:
    from orchestrator.cli.top_screen import picture

    size = live.console.size
    live.update(picture(found, view, rows=max(1, size.height - view.rows_above)), refresh=True)


def _obey(interval_s: float, looking: _Looking, view: View, live: Live, found: Overview) -> bool:
    """Do what is typed until the next look is due; return whether to go on."""
    due = time.monotonic() + interval_s
    while (left_s := due - time.monotonic()) > 0:
        key = _key(left_s)
        if key in ("q", "Q", "\x04"):
            return False
        if key == "n" and view.trouble is None:
            looking.go_on()
            view.first = 0
            return True
        if key is not None and view.press(key):
            _draw(live, found, view)
    return True


def _key(timeout_s: float) -> str | None:
    """Return the key that was pressed, or None when nothing was in time."""
    # Past Python's buffers: what one of them has swallowed, `select` does not tell of.
    terminal = sys.stdin.fileno()
    if not select.select([terminal], [], [], timeout_s)[0]:
        return None
    typed = os.read(terminal, 16).decode(errors="replace")
    return _ARROWS.get(typed, typed[:1]) or "\x04"


@contextmanager
def _keys() -> Iterator[None]:
    """Hear each key as it is pressed, unechoed."""
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
