"""Reads the figures of the led queues for the monitor, now and then, on a connection of its own.

Not on the leadership session, so that no tick waits for a figure; and not among the other chores,
so that no schedule does. What was read is swapped in as a whole; a term that ended meanwhile shows
nothing. Where a reading takes long, the next comes later: at most a twentieth of the time is spent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import psycopg
import structlog
from psycopg import Connection, IsolationLevel

from orchestrator.config import MetricsSettings
from orchestrator.errors import OrchestratorError
from orchestrator.leader.session import hang_up, open_beside
from orchestrator.leader.vitals import Vitals
from orchestrator.store.figures import Reading, queue_figures
from orchestrator.store.loads import OrgLoad
from orchestrator.store.sql import run
from orchestrator.telemetry import metrics
from orchestrator.telemetry.figures import Board, Lead

log = structlog.get_logger()

LOOK_INTERVAL_S = 1
_SHARE_OF_TIME = 20


class _Term:
    """What is remembered of one term from reading to reading."""

    def __init__(self) -> None:
        self.due_at = 0.0
        # Of each org at the last reading: its slots and its cap.
        self.held: dict[str, tuple[int, int | None]] = {}

    def over_cap(self, loads: Sequence[OrgLoad]) -> int:
        """Return how many orgs were given slots beyond their cap since the last reading.

        An org that holds more than its cap is no proof: the cap may have been lowered. One that
        holds more than before, beyond a cap that is the same as before, is.
        """
        before, self.held = (
            self.held,
            {load.org: (load.in_flight, load.burst_max) for load in loads},
        )
        found = 0
        for load in loads:
            held, cap = before.get(load.org, (load.in_flight, load.burst_max))
            if cap is not None and cap == load.burst_max and load.in_flight > max(cap, held):
                found += 1
                log.error("figures.over_cap", org=load.org, in_flight=load.in_flight, cap=cap)
        return found


class Figures:
    """Reads what is due; `read` is called again and again, by one thread."""

    def __init__(
        self,
        dsn: str,
        settings: MetricsSettings,
        board: Board,
        leading: Callable[[], Sequence[Vitals]],
    ) -> None:
        self._dsn = dsn
        self._settings = settings
        self._board = board
        self._leading = leading
        self._connection: Connection[Any] | None = None
        self._terms: dict[Lead, _Term] = {}

    def read(self) -> None:
        """Read the figures of each led queue that are due; the first of a term are at once."""
        leads = {each.lead: each for each in self._leading() if each.lead is not None}
        self._terms = {lead: self._terms.get(lead, _Term()) for lead in leads}
        if not leads:
            self.close()
        for lead, vitals in leads.items():
            term = self._terms[lead]
            if time.monotonic() >= term.due_at:
                # Before the work: what fails is not tried again at once.
                term.due_at = time.monotonic() + self._settings.interval_s
                self._guarded(lead, vitals, term)

    def hang_up(self) -> None:
        """Wake the thread that reads, if it waits for an answer that does not come."""
        hang_up(self._connection)

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _guarded(self, lead: Lead, vitals: Vitals, term: _Term) -> None:
        try:
            self._read(lead, vitals, term)
        except (OrchestratorError, psycopg.Error) as error:
            log.warning("chore.failed", chore="read_figures", error=str(error))
            metrics.CHORE_FAILURES.labels("read_figures").inc()
            self.close()

    def _read(self, lead: Lead, vitals: Vitals, term: _Term) -> None:
        at, began = time.time(), time.monotonic()
        connection = self._connected()
        with connection.transaction():
            reading: Reading = run(
                connection, queue_figures(vitals.queue, orgs_max=self._settings.orgs_max)
            )
        took_s = time.monotonic() - began
        pause_s = max(self._settings.interval_s, took_s * _SHARE_OF_TIME)
        term.due_at = time.monotonic() + pause_s
        figures = replace(
            reading.figures,
            over_cap=term.over_cap(reading.loads),
            # Of a long flow nobody can count so cheaply; the leader has been told of each task.
            staged=max(reading.figures.staged, vitals.staged()),
            at=at,
            took_s=took_s,
            stale_after_s=4 * pause_s,
        )
        self._board.show(lead, figures)

    def _connected(self) -> Connection[Any]:
        if self._connection is None:
            self._connection = open_beside(self._dsn, "figures", {})
            self._connection.isolation_level = IsolationLevel.REPEATABLE_READ
            self._connection.read_only = True
        return self._connection
