"""A leader that is driven one step at a time, and a bare store client, for tests of
interleavings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg import Connection

from orchestrator.config import LeaderSettings
from orchestrator.leader.reign import Reign
from orchestrator.leader.session import open_session
from orchestrator.leader.tick import Ticked
from orchestrator.model import (
    AttemptStatus,
    CancelOutcome,
    Claim,
    Enqueued,
    Extension,
    QueueConfig,
    TaskSpec,
)
from orchestrator.store import cut, leadership, queue, staging
from orchestrator.store import tasks as store_tasks
from orchestrator.store.queue import Ending
from orchestrator.store.sql import run, session_options
from orchestrator.wakeup.bumper import Bumper

# A test may hold a leader up for as long as it likes.
PATIENT = LeaderSettings(
    idle_session_timeout_s=60,
    idle_in_transaction_timeout_s=60,
    lock_timeout_s=30,
    statement_timeout_s=50,
    watchdog_s=60,
)


class SteppedLeader:
    """Leads one queue over a session of its own; nothing happens between two calls of a test."""

    def __init__(
        self,
        dsn: str,
        *,
        queue: int = 1,
        settings: LeaderSettings = PATIENT,
        alive: Callable[[], None] = lambda: None,
        bumper: Bumper | None = None,
    ) -> None:
        self.connection: Connection[Any] = open_session(dsn, settings, holder="stepped")
        configs: list[QueueConfig] = run(self.connection, leadership.queues())
        (self.queue,) = [config for config in configs if config.id == queue]
        self.reign = Reign(
            self.connection,
            self.queue,
            settings,
            holder="stepped",
            stopping=lambda: False,
            alive=alive,
            bumper=bumper,
        )
        self._last = Ticked()

    def elect(self, *, lock: bool = True) -> SteppedLeader:
        """Open a term; with `lock=False` as a usurper that never held the advisory lock."""
        if lock:
            taken = run(self.connection, leadership.try_lock(self.queue.id, 60)).taken
            assert taken, "somebody else holds the advisory lock"
        self.reign.open()
        return self

    def tick(self) -> Ticked:
        """Do one tick, and fold what it wrote down: a test may read the tables of the cut."""
        ticked = self.reign.tick.tick()
        self._fold()
        return ticked

    def step(self) -> Ticked:
        """Look, keep house, and tick if there is anything to do: what the loop does; and fold."""
        _, self._last = self.reign.step(self._last)
        self._fold()
        return self._last

    def _fold(self) -> None:
        while run(self.connection, cut.fold(self.queue.id)) is not None:
            pass

    def drain_ticks(self) -> int:
        """Tick until a tick admits nothing; return how many were admitted."""
        admitted = 0
        while done := self.tick().admitted:
            admitted += done
        return admitted

    def sweep(self) -> list[str]:
        """Count everything afresh; return the repairs."""
        return self.reign.keeper.sweep()

    @property
    def scheduler(self) -> Any:
        """Return the scheduler of the term."""
        return self.reign.cut.scheduler

    def close(self) -> None:
        """End the session, as a crash would."""
        self.connection.close()
        self.reign.waker.close()


def connect(dsn: str, **settings: str) -> Connection[Any]:
    """Return an autocommit connection with the pins of a queue connection."""
    return psycopg.connect(
        dsn, autocommit=True, prepare_threshold=1, options=session_options(settings)
    )


def enqueue(
    connection: Connection[Any], specs: Sequence[TaskSpec], *, queue_id: int = 1
) -> list[Enqueued]:
    """Stage tasks with empty payloads, in one transaction."""
    with connection.transaction():
        stored: list[Enqueued] = run(
            connection, staging.enqueue(queue_id, specs, ["{}"] * len(specs))
        )
    return stored


def tasks(count: int, org: str = "a", **fields: Any) -> list[TaskSpec]:
    """Return `count` specs of one org."""
    return [TaskSpec(name="t", org=org, **fields) for _ in range(count)]


def claim(
    connection: Connection[Any], limit: int, *, lease_s: float = 30.0, queue_id: int = 1
) -> list[Claim]:
    """Claim up to `limit` tasks."""
    operation = queue.claim(
        queue_id, "default", uuid4(), limit=limit, lease_s=lease_s, worker="test"
    )
    claimed: list[Claim] = run(connection, operation)
    return claimed


def endings(claims: Sequence[Claim], status: AttemptStatus, delay_s: float = 0.0) -> list[Ending]:
    """Return how `claims` end."""
    return [Ending(c.dispatch_key, c.claim_id, status, None, delay_s) for c in claims]


def ack(connection: Connection[Any], claims: Sequence[Claim], *, queue_id: int = 1) -> set[int]:
    """Finish claims as succeeded, with their leases; return the dispatch keys that ended."""
    closing: list[UUID] = sorted({c.claim_id for c in claims})
    operation = queue.finish(
        queue_id, endings(claims, AttemptStatus.SUCCEEDED), worker="test", closing=closing
    )
    ended: set[int] = run(connection, operation)
    return ended


def finish(
    connection: Connection[Any],
    claims: Sequence[Claim],
    status: AttemptStatus = AttemptStatus.SUCCEEDED,
    *,
    queue_id: int = 1,
) -> set[int]:
    """Finish claims and leave their leases alone, as in a transaction of the caller."""
    operation = queue.finish(queue_id, endings(claims, status), worker="test")
    ended: set[int] = run(connection, operation)
    return ended


def extend(
    connection: Connection[Any],
    claims: Sequence[Claim],
    lease_s: float = 30.0,
    *,
    queue_id: int = 1,
) -> list[Extension]:
    """Extend the leases of claims; those that are lost are missing from the answer."""
    held: list[UUID] = sorted({c.claim_id for c in claims})
    extended: list[Extension] = run(connection, queue.extend(queue_id, held, lease_s))
    return extended


def cancel(connection: Connection[Any], task_id: int) -> CancelOutcome:
    """Cancel one task."""
    with connection.transaction():
        outcome: CancelOutcome = run(connection, store_tasks.cancel(task_id, reason="test"))
    return outcome


def retry(connection: Connection[Any], task_id: int) -> None:
    """Stage an ended task again."""
    with connection.transaction():
        run(connection, store_tasks.retry(task_id))


def give_back(
    connection: Connection[Any],
    claims: Sequence[Claim],
    status: AttemptStatus = AttemptStatus.FAILED,
    *,
    delay_s: float = 0.0,
    queue_id: int = 1,
) -> dict[int, AttemptStatus]:
    """Give claims back; return how each really ended."""
    with connection.transaction():
        verdicts: dict[int, AttemptStatus] = run(
            connection,
            queue.give_back(queue_id, endings(claims, status, delay_s), worker="test"),
        )
    return verdicts


def reap(connection: Connection[Any], *, queue_id: int = 1) -> list[tuple[int, AttemptStatus]]:
    """Reap expired leases."""
    with connection.transaction():
        reaped: list[tuple[int, AttemptStatus]] = run(connection, queue.reap(queue_id, limit=100))
    return reaped
