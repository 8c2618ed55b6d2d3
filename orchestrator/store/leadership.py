"""Election: the advisory lock, the epoch row, and what may not lead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from orchestrator.model import CostMode, Policy, QueueConfig
from orchestrator.store.names import LOCK_CLASS
from orchestrator.store.sql import Operation, Row, Statements

SQL = Statements("leadership")


@dataclass(frozen=True, slots=True)
class Term:
    """One reign over one queue: the fencing token is (epoch, term)."""

    queue: int
    epoch: int
    term: UUID
    timeline: int
    holder: str


@dataclass(frozen=True, slots=True)
class Guard:
    """What a session must show before it may lead."""

    in_recovery: bool
    backend_pid: int
    server_version: int
    settings: Mapping[str, str]
    local: bool


class Attempt(NamedTuple):
    """What came of asking for the lock: whether it was taken, and by which backend; if it was not,
    whether the leader's session was ended, and for how long the server has waited for it.
    """

    taken: bool
    backend_pid: int
    ended: bool
    silent_s: float


@dataclass(frozen=True, slots=True)
class Leadership:
    """Who leads a queue, as the server sees it."""

    queue: int
    name: str
    epoch: int
    term: UUID
    holder: str
    backend_pid: int
    timeline: int
    elected_at: datetime
    alive: bool
    last_seen_at: datetime | None
    silent_s: float | None


@dataclass(frozen=True, slots=True)
class LeadershipEvent:
    """One line of the leadership log."""

    epoch: int
    event: str
    holder: str
    reason: str | None
    at: datetime


def guard(names: Sequence[str]) -> Operation:
    """Return the `Guard` of this session with the settings `names`."""
    rows = yield SQL.call("guard", names=list(names))
    recovery, pid, version, settings, local = rows[0]
    return Guard(recovery, pid, version, dict(s.split("=", 1) for s in settings), local)


def database_id() -> Operation:
    """Return a name that tells this database from every other."""
    rows = yield SQL.call("database_id")
    return rows[0][0]


def try_lock(queue: int, silent_s: float) -> Operation:
    """Try to take the queue's advisory lock, and end a leader's session that is silent.

    Returns an `Attempt`: silent is a session whose backend has waited for its client for
    `silent_s`, which no live leader lets happen.
    """
    rows = yield SQL.call("try_lock", classid=LOCK_CLASS, queue=queue, silent_s=silent_s)
    taken, pid, ended, silent_for_s = rows[0]
    return Attempt(taken, pid, bool(ended), silent_for_s or 0.0)


def holds_lock(queue: int) -> Operation:
    """Tell whether the backend that answers holds the queue's advisory lock."""
    rows = yield SQL.call("holds_lock", classid=LOCK_CLASS, queue=queue)
    return rows[0][0] > 0


def unlock(queue: int) -> Operation:
    """Give the queue's advisory lock back."""
    yield SQL.call("unlock", classid=LOCK_CLASS, queue=queue)


def elect(queue: int, holder: str) -> Operation:
    """Open a term, which voids all older ones, and write it down; needs a transaction."""
    rows = yield SQL.call("elect", queue=queue, holder=holder)
    epoch, token, timeline = rows[0]
    term = Term(queue, epoch, token, timeline, holder)
    yield from log_event(term, "elected", None)
    return term


def log_event(term: Term, event: str, reason: str | None) -> Operation:
    """Write one line of the leadership log."""
    yield SQL.call(
        "log_event",
        queue=term.queue,
        epoch=term.epoch,
        term=term.term,
        holder=term.holder,
        timeline=term.timeline,
        event=event,
        reason=reason,
    )


def queues(names: Sequence[str] | None = None) -> Operation:
    """Return the `QueueConfig`s of `names`, or of all queues."""
    rows = yield SQL.call("queues", names=list(names) if names else None)
    return [queue_config(row) for row in rows]


def queue(queue_id: int) -> Operation:
    """Return the `QueueConfig` of one queue."""
    rows = yield SQL.call("queue", queue=queue_id)
    return queue_config(rows[0])


def queue_config(row: Row) -> QueueConfig:
    """Build a `QueueConfig` from a row of `queues`."""
    return QueueConfig(row[0], row[1], Policy(row[2]), CostMode(row[3]), *row[4:])


def leaders() -> Operation:
    """Return a `Leadership` for every queue."""
    rows = yield SQL.call("leader", classid=LOCK_CLASS)
    return [Leadership(*row) for row in rows]


def terminate(pid: int) -> Operation:
    """End the session of a leader; return whether there was one."""
    rows = yield SQL.call("terminate", pid=pid)
    return rows[0][0]


def history(queue_id: int, limit: int) -> Operation:
    """Return the last `LeadershipEvent`s of a queue, newest first."""
    rows = yield SQL.call("leadership_history", queue=queue_id, limit=limit)
    return [LeadershipEvent(*row) for row in rows]
