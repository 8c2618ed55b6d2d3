"""Recurring tasks: which are due, and firing one with its advance in a single transaction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog

from orchestrator.cron import parse
from orchestrator.errors import InvalidInput, UnknownSchedule
from orchestrator.model import TaskSpec
from orchestrator.store import staging
from orchestrator.store.sql import Operation, Row, Statements

SQL = Statements("schedules")
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Schedule:
    """One recurring task, as operators see it."""

    name: str
    cron: str
    timezone: str
    task_name: str
    payload_text: str | None
    org: str
    queue: str
    workload: str
    priority: int
    max_attempts: int
    timeout_s: float | None
    next_run_at: datetime | None = None
    last_run_at: datetime | None = None
    last_task_id: int | None = None
    disabled_at: datetime | None = None
    disabled_reason: str | None = None


def until_due() -> Operation:
    """Return in how many seconds the first schedule is due, not above 0 if one is; None if there is
    none.
    """
    rows = yield SQL.call("until_due")
    return rows[0][0]


def fire_next() -> Operation:
    """Fire the next due schedule that nobody else is firing; return its name, None if there is
    none.

    Needs a transaction: the task and the advance commit together or not at all. A schedule without
    a next time is given one and not fired. A missed time is fired once, not once for each that
    was missed. A bad expression, or a queue that is gone, disables that row alone.
    """
    rows = yield SQL.call("due")
    if not rows:
        return None
    row = rows[0]
    schedule_id, name, due_at, now = row[0], row[1], row[13], row[14]
    try:
        next_run_at = parse(row[2], row[3]).next_after(now)
        if row[7] is None:
            raise InvalidInput(f"no queue {row[8]!r}")
    except InvalidInput as error:
        log.warning("schedule.disabled", schedule=name, reason=str(error))
        yield SQL.call("disable", id=schedule_id, reason=str(error))
        return name
    task_id = None
    if due_at is not None:
        spec = _spec(row)
        staged = yield from staging.enqueue(row[7], [spec], [row[5] or "null"])
        task_id = staged[0].id
    yield SQL.call(
        "advance", id=schedule_id, next_run_at=next_run_at, fired_at=due_at, task_id=task_id
    )
    return name


def _spec(row: Row) -> TaskSpec:
    return TaskSpec(
        name=row[4],
        org=row[6],
        queue=row[8],
        workload=row[9],
        priority=row[10],
        max_attempts=row[11],
        timeout_s=row[12],
    )


def list_schedules() -> Operation:
    """Return every `Schedule`, by name."""
    rows = yield SQL.call("list")
    return [Schedule(*row) for row in rows]


def set_schedule(schedule: Schedule, check: Callable[[TaskSpec], None]) -> Operation:
    """Create or replace a schedule; raise `InvalidInput` where its expression or task is wrong."""
    staging_spec = TaskSpec(
        name=schedule.task_name,
        org=schedule.org,
        queue=schedule.queue,
        workload=schedule.workload,
        priority=schedule.priority,
        max_attempts=schedule.max_attempts,
        timeout_s=schedule.timeout_s,
    )
    check(staging_spec)
    yield from staging.queue_id(schedule.queue)
    yield from staging.check_workload(schedule.workload)
    now = (yield SQL.call("clock"))[0][0]
    yield SQL.call(
        "set",
        name=schedule.name,
        cron=schedule.cron,
        timezone=schedule.timezone,
        task_name=schedule.task_name,
        payload=schedule.payload_text,
        org=schedule.org,
        queue=schedule.queue,
        workload=schedule.workload,
        priority=schedule.priority,
        max_attempts=schedule.max_attempts,
        timeout_s=schedule.timeout_s,
        next_run_at=parse(schedule.cron, schedule.timezone).next_after(now),
    )


def remove_schedule(name: str) -> Operation:
    """Delete a schedule; raise `UnknownSchedule`."""
    rows = yield SQL.call("remove", name=name)
    if not rows:
        raise UnknownSchedule(f"no schedule {name!r}: `orchestrator schedule list` names them")
