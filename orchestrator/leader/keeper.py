"""Housekeeping of one queue between two ticks: expired leases, passed deadlines, due tasks, the
sweep.

None of it needs the fence: each moves rows in one statement under their locks, so doing it twice,
or by a leader that was deposed meanwhile, does no harm.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from psycopg import Connection

from orchestrator.fairness import Lane
from orchestrator.leader.configuration import Configuration
from orchestrator.leader.cut import Cut
from orchestrator.model import AttemptStatus
from orchestrator.store import cut as stored
from orchestrator.store import queue
from orchestrator.store.admission import Peek
from orchestrator.store.sql import run
from orchestrator.telemetry import metrics

log = structlog.get_logger()

# Leases (of up to some hundred tasks each) or tasks taken in one transaction.
_LEASES_MAX = 20
_TASKS_MAX = 500
# A scheduled row becomes visible at most this long after its time: a longer transaction of its
# producer delays it to the next sweep. Promoting looks no further back, because the entries of rows
# promoted long ago stay in the index while a snapshot is held.
_LOOK_BACK = timedelta(minutes=1)
_BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)


class Keeper:
    """Housekeeping over the leadership session of one term."""

    def __init__(self, connection: Connection[Any], cut: Cut, configuration: Configuration) -> None:
        self._connection = connection
        self._cut = cut
        self._configuration = configuration
        self.since = _BEGINNING

    def keep(self, peek: Peek) -> bool:
        """Do what `peek` found to do; return whether that made new work to admit."""
        name = self._cut.queue.id
        done = 0
        if peek.next_due is not None and peek.next_due <= peek.now:
            done += self._promote(name)
        elif self.since < peek.now - _LOOK_BACK:
            self.since = peek.now - _LOOK_BACK
        if peek.expired_leases:
            done += self._reap()
        if peek.deadlines:
            done += self._expire(name)
        return done > 0

    def _promote(self, name: int) -> int:
        promoting = queue.promote(name, since=self.since, limit=_TASKS_MAX)
        promoted: int = run(self._connection, promoting)
        metrics.PROMOTIONS.labels(self._cut.queue.name).inc(promoted)
        return promoted

    def _expire(self, name: int) -> int:
        expired: int = run(self._connection, queue.expire(name, limit=_TASKS_MAX))
        metrics.EXPIRATIONS.labels(self._cut.queue.name).inc(expired)
        metrics.OUTCOMES.labels(self._cut.queue.name, AttemptStatus.EXPIRED).inc(expired)
        return expired

    def _reap(self) -> int:
        with self._connection.transaction():
            reaped = run(self._connection, queue.reap(self._cut.queue.id, limit=_LEASES_MAX))
        for task_id, verdict in reaped:
            log.warning("task.lost", task=task_id, queue=self._cut.queue.name, verdict=verdict)
        metrics.REAPED.labels(self._cut.queue.name).inc(len(reaped))
        metrics.ended(self._cut.queue.name, [verdict for _, verdict in reaped])
        return len(reaped)

    def sweep(self) -> list[str]:
        """Count what the feeds should have told, repair what differs, and say what it was.

        The safety net: an empty answer is the normal one.
        """
        self.since = _BEGINNING
        self._lift()
        return [*self._recount_in_flight(), *self._find_forgotten_flows()]

    def _lift(self) -> None:
        config = self._cut.queue
        if config.max_wait_s is not None:
            lifting = queue.lift(config.id, max_wait_s=config.max_wait_s, limit=_TASKS_MAX)
            if lifted := run(self._connection, lifting):
                log.info("task.lifted", queue=config.name, tasks=lifted)

    def _recount_in_flight(self) -> list[str]:
        scheduler = self._cut.scheduler
        operation = stored.count_in_flight(self._cut.queue.id, self._cut.row.attempt_snapshot)
        counted: dict[tuple[str, Lane], int] = run(self._connection, operation)
        repairs = []
        for org in {org for org, _ in counted} | scheduler.orgs.keys():
            self._configuration.introduce(org)
            for seat in scheduler.org(org).seats:
                held, found = seat.in_flight, counted.get((org, seat.lane), 0)
                if held != found:
                    scheduler.set_in_flight(org, found, seat.lane)
                    repairs.append(f"in-flight of org {org!r} was {held}, is {found}")
        return repairs

    def _find_forgotten_flows(self) -> list[str]:
        repairs = []
        for org, workload, found in self._cut.counted_flows(self._connection):
            if not self._cut.scheduler.waits(org, workload):
                self._configuration.introduce(org)
                self._cut.recount(org, workload, found)
                repairs.append(f"flow ({org!r}, {workload!r}) was believed empty, has {found}")
        return repairs
