"""Periodic chores of a leading replica: recurring tasks, partitions, retention.

APScheduler calls them, on one thread with one connection of its own. Liveness never depends on
them, and each is safe to run twice: several queues may be led by several replicas, and all do
chores. A chore that hangs for good (its connection is cut off and nobody says so) would be the last
one: a watchdog ends the process then, and a stop hangs up on it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
import structlog
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from psycopg import Connection

from orchestrator.config import Settings
from orchestrator.errors import OrchestratorError
from orchestrator.leader.figures import LOOK_INTERVAL_S, Figures
from orchestrator.leader.session import hang_up, open_beside
from orchestrator.leader.watchdog import Watchdog
from orchestrator.store import retention, schedules
from orchestrator.store.sql import Operation, run
from orchestrator.telemetry import metrics

log = structlog.get_logger()

SCHEDULES_INTERVAL_S = 1
# The database is asked when the first schedule is due, and again then; and after this long at the
# latest, for one that was set meanwhile.
_SCHEDULES_LOOK_S = 5.0
PARTITIONS_INTERVAL_S = 15
RETENTION_INTERVAL_S = 300
# A chore that hangs must not hang for ever: the server ends its statement.
_STATEMENT_TIMEOUT_MS = 60_000
# Longer than a chore of several statements takes; the server has ended each by then.
WATCHDOG_S = 180.0
# How long a stop waits for the chore that is running.
_STOP_S = 5.0


class Chores:
    """Runs the chores while `leading()` names at least one queue."""

    def __init__(
        self,
        dsn: str,
        settings: Settings,
        leading: Callable[[], Sequence[int]],
        figures: Figures | None = None,
        watchdog: Watchdog | None = None,
    ) -> None:
        self._dsn = dsn
        self._watchdog = watchdog or Watchdog(WATCHDOG_S)
        self._settings = settings.retention
        self._leading = leading
        self._figures = figures
        self._connection: Connection[Any] | None = None
        self._schedules_due_at = 0.0
        self._scheduler = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(1), "figures": ThreadPoolExecutor(1)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
            timezone="UTC",
        )

    def start(self) -> None:
        """Start the clockwork; nothing runs until the replica leads."""
        for chore, seconds in (
            (self.fire_schedules, SCHEDULES_INTERVAL_S),
            (self.create_partitions, PARTITIONS_INTERVAL_S),
            (self.drop_partitions, RETENTION_INTERVAL_S),
            (self.trim_logs, RETENTION_INTERVAL_S),
        ):
            self._scheduler.add_job(self._guarded, "interval", [chore], seconds=seconds)
        if self._figures is not None:
            self._scheduler.add_job(
                self._figures.read, "interval", seconds=LOOK_INTERVAL_S, executor="figures"
            )
        self._watchdog.start()
        self._scheduler.start()

    def stop(self) -> None:
        """Stop after the chore that is running; hang up on one that does not end."""
        patience = threading.Timer(_STOP_S, self._hang_up)
        patience.start()
        self._scheduler.shutdown(wait=True)
        patience.cancel()
        patience.join()
        self._watchdog.stop()
        if self._figures is not None:
            self._figures.close()
        self._disconnect()

    def fire_schedules(self) -> None:
        """Enqueue the recurring tasks that are due, if any can be."""
        now = time.monotonic()
        if now < self._schedules_due_at:
            return
        until_s = self._run(schedules.until_due())
        wait_s = _SCHEDULES_LOOK_S if until_s is None else min(_SCHEDULES_LOOK_S, until_s)
        self._schedules_due_at = now + wait_s
        if wait_s > 0:
            return
        while (name := self._transact(schedules.fire_next())) is not None:
            log.info("schedule.fired", schedule=name)

    def create_partitions(self) -> None:
        """Create partitions ahead of the ids."""
        for part in self._run(retention.create_ahead()):
            log.info("partition.created", low=part.low, high=part.high)

    def drop_partitions(self) -> None:
        """Drop the partitions whose tasks all ended longer ago than the retention."""
        keep_s = max(self._settings.task_s, self._settings.attempt_s)
        for part in self._run(retention.oldest_partitions()):
            if not self._run(retention.droppable(part, keep_s)):
                continue
            if self._transact(retention.drop(part, keep_s)):
                log.info("partition.dropped", low=part.low, high=part.high)

    def trim_logs(self) -> None:
        """Delete old lines of the tick, leadership and audit logs."""
        self._run(
            retention.trim(
                ticks_s=self._settings.tick_log_s,
                leadership_s=self._settings.leadership_log_s,
                audit_s=self._settings.audit_log_s,
            )
        )

    def _guarded(self, chore: Callable[[], None]) -> None:
        """Run a chore if we lead; a failure is logged, its connection dropped, and it comes
        again.
        """
        if not self._leading():
            self._disconnect()
            return
        self._watchdog.alive("chore")
        try:
            chore()
        except (OrchestratorError, psycopg.Error) as error:
            log.warning("chore.failed", chore=chore.__name__, error=str(error))
            metrics.CHORE_FAILURES.labels(chore.__name__).inc()
            self._disconnect()
        finally:
            self._watchdog.forget("chore")

    def _run(self, operation: Operation) -> Any:
        return run(self._connected(), operation)

    def _transact(self, operation: Operation) -> Any:
        with self._connected().transaction():
            return run(self._connected(), operation)

    def _connected(self) -> Connection[Any]:
        if self._connection is None:
            timeout = {"statement_timeout": _STATEMENT_TIMEOUT_MS}
            self._connection = open_beside(self._dsn, "chores", timeout)
        return self._connection

    def _hang_up(self) -> None:
        """Wake the threads that wait for an answer, from another one."""
        hang_up(self._connection)
        if self._figures is not None:
            self._figures.hang_up()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
