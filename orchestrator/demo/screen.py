"""What a person sees while the demonstration runs: a live table, or plain lines where there is
none.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from orchestrator.demo.scenario import Part
from orchestrator.store.report import Standing

# Plain output is a log: a line a second and org would drown it.
_PLAIN_INTERVAL_S = 3.0


class Screen:
    """Shows the standings; `say` adds a line of its own."""

    def __init__(self, parts: Sequence[Part], stream: TextIO) -> None:
        self._parts = {part.org: part for part in parts}
        self._console = Console(file=stream)
        self._live: Live | None = None
        self._shown_at = 0.0

    @contextmanager
    def live(self) -> Iterator[None]:
        """Redraw the table in place while the block runs, if this is a terminal."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, refresh_per_second=4) as self._live:
            yield
        self._live = None

    def say(self, line: str) -> None:
        """Print one line above the table."""
        console = self._live.console if self._live else self._console
        console.print(line, highlight=False, soft_wrap=True)

    def show(self, second: float, standings: Sequence[Standing], due: Mapping[str, float]) -> None:
        """Show where each org stands, `second` seconds into the run."""
        if self._live is not None:
            self._live.update(self._table(second, standings, due))
        elif standings and time.monotonic() - self._shown_at >= _PLAIN_INTERVAL_S:
            self._shown_at = time.monotonic()
            for standing in standings:
                self.say(self._line(second, standing, standings, due))

    def _table(
        self, second: float, standings: Sequence[Standing], due: Mapping[str, float]
    ) -> Table:
        table = Table(title=f"fair admission, second {second:.0f}")
        table.add_column("org")
        for column in ("backlog", "in flight", "share", "fair share", "dwell p50", "dwell p95"):
            table.add_column(column, justify="right")
        for standing in standings:
            part = self._parts[standing.org]
            table.add_row(
                f"{standing.org} ({part.tier})",
                f"{standing.backlog:,}",
                f"{standing.in_flight}/{part.burst_max}",
                _percent(share(standing, standings)),
                _percent(due.get(standing.org, 0.0)),
                _seconds(standing.dwell_p50_s),
                _seconds(standing.dwell_p95_s),
            )
        return table

    def _line(
        self,
        second: float,
        standing: Standing,
        standings: Sequence[Standing],
        due: Mapping[str, float],
    ) -> str:
        part = self._parts[standing.org]
        return (
            f"{second:5.1f} s  {standing.org:9} {part.tier:11}"
            f" backlog {standing.backlog:6,}  in flight {standing.in_flight:3}/{part.burst_max:<3}"
            f" share {_percent(share(standing, standings)):>4}"
            f" (fair {_percent(due.get(standing.org, 0.0)):>4})"
            f"  dwell p50 {_seconds(standing.dwell_p50_s)} p95 {_seconds(standing.dwell_p95_s)}"
        )


def share(standing: Standing, standings: Sequence[Standing]) -> float:
    """Return the part of the lately started tasks that were this org's."""
    started = sum(other.started for other in standings)
    return standing.started / started if started else 0.0


def _percent(part: float) -> str:
    return f"{part:.0%}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} s"
