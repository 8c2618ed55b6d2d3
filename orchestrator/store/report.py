"""What a run did, read from the tables: for the demonstration and for benchmarks.

These statements walk whole tables; they are for bounded runs, not for a production database.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.store.sql import Operation, Statements

SQL = Statements("report")


@dataclass(frozen=True, slots=True)
class Standing:
    """One org at one moment; dwell in seconds over the tasks that started lately, None if none."""

    org: str
    backlog: int
    in_flight: int
    ended: int
    started: int
    dwell_p50_s: float | None
    dwell_p95_s: float | None


class Verdict(NamedTuple):
    """The count of all tasks, and of those that went wrong or have not ended."""

    enqueued: int
    lost: int
    duplicated: int
    unfinished: int


class Lifecycle(NamedTuple):
    """One task's instants, in seconds of the database's clock."""

    org: str
    enqueued_at: float
    started_at: float
    ended_at: float


def standing(queue: int, seconds: float) -> Operation:
    """Return a `Standing` for each org that was ever admitted; `seconds` bounds "lately"."""
    rows = yield SQL.call("standing", queue=queue, seconds=seconds)
    return [Standing(*row) for row in rows]


def in_flight(queue: int) -> Operation:
    """Return {org: its unfinished admitted tasks}."""
    rows = yield SQL.call("in_flight", queue=queue)
    return dict(rows)


def verdict(queue: int) -> Operation:
    """Return the `Verdict` over all tasks of the queue."""
    rows = yield SQL.call("verdict", queue=queue)
    return Verdict(*rows[0])


def lifecycles(queue: int) -> Operation:
    """Return the `Lifecycle` of every task that started, in the order of enqueueing."""
    rows = yield SQL.call("lifecycles", queue=queue)
    return [Lifecycle(*row) for row in rows]


def first_tick_after(queue: int, epoch: int) -> Operation:
    """Return when a later epoch first admitted, in seconds of the database's clock, or None."""
    rows = yield SQL.call("first_tick", queue=queue, epoch=epoch)
    return rows[0][0]


def clock() -> Operation:
    """Return the database's clock in seconds."""
    rows = yield SQL.call("clock")
    return rows[0][0]
