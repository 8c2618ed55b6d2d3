"""One task by its id: find, cancel, retry; and pages of tasks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from orchestrator.errors import (
    DatabaseUnavailable,
    IdempotencyConflict,
    TaskNotFound,
    TaskUnfinished,
)
from orchestrator.model import Attempt, AttemptStatus, CancelOutcome, Place, TaskInfo
from orchestrator.store.names import control_channel, doze_sequence, staged_channel
from orchestrator.store.sql import Operation, Row, Statements
from orchestrator.text import shown

SQL = Statements("tasks")

# A task moves at most a few times while we look for it; more rounds than this mean that something
# else is wrong, and a bound beats a loop.
_ROUNDS_MAX = 50
BEFORE_ALL = 2**63 - 1


@dataclass(frozen=True, slots=True)
class TaskLine:
    """One line of a list of tasks."""

    id: int
    name: str
    org: str
    workload: str
    priority: int
    created_at: datetime
    place: Place
    attempt: int
    status: AttemptStatus | None


def get(task_id: int) -> Operation:
    """Return the `TaskInfo` of `task_id`; raise `TaskNotFound`."""
    found = yield from _find(task_id)
    where = _where(found)
    for _ in range(_ROUNDS_MAX):
        places = yield SQL.call("place", **where)
        history = yield SQL.call("history", queue=found[0], id=task_id)
        if places or any(row[2] for row in history):
            return _info(found, places, history)
    raise DatabaseUnavailable(f"task {task_id} kept moving; look again")


def org_of(task_id: int) -> Operation:
    """Return the org of `task_id`, which never changes; raise `TaskNotFound`."""
    rows = yield SQL.call("org_of", id=task_id)
    if not rows:
        raise TaskNotFound(f"no task {task_id}")
    return rows[0][0]


def cancel(task_id: int, *, reason: str) -> Operation:
    """End `task_id` wherever it waits, or ask its worker to stop; return a `CancelOutcome`.

    A task is looked for until it is found or final: between two looks it may have moved. Needs no
    transaction, and is better without: the leader waits for a row that is held, and so would wait
    for a caller who stops between two statements. Raises `TaskNotFound`.
    """
    found = yield from _find(task_id)
    queue, where = found[0], _where(found)
    for _ in range(_ROUNDS_MAX):
        gone = yield SQL.call("cancel_waiting", **where, reason=reason, **_wake(queue))
        if gone:
            return CancelOutcome.CANCELLED
        if (yield from _cancel_claimed(queue, task_id)):
            return CancelOutcome.REQUESTED
        places = yield SQL.call("place", **where)
        if not places:
            return CancelOutcome.ENDED
    raise DatabaseUnavailable(f"task {task_id} kept moving; cancel it again")


def _cancel_claimed(queue: int, task_id: int) -> Operation:
    """Leave word in the lease, then look again: what gave the task back meanwhile did not see
    it.
    """
    claims = yield SQL.call("claim_of", queue=queue, id=task_id)
    if not claims:
        return False
    claim_id, key = claims[0]
    told = yield SQL.call(
        "cancel_claimed",
        queue=queue,
        claim_id=claim_id,
        key=key,
        control=control_channel(queue),
    )
    still = yield SQL.call("claim_of", queue=queue, id=task_id)
    return bool(told) and list(still) == list(claims)


def retry(task_id: int) -> Operation:
    """Stage an ended task again with fresh attempts; return nothing.

    Needs a transaction. Raises `TaskNotFound`, `TaskUnfinished`, `IdempotencyConflict`.
    """
    found = yield from _find(task_id)
    queue, key = found[0], found[14]
    yield SQL.call("lock_task", queue=queue, id=task_id)
    places = yield SQL.call("place", **_where(found))
    ended = yield SQL.call("ended_status", queue=queue, id=task_id)
    if places or not ended:
        place = places[0][0] if places else "on its way"
        raise TaskUnfinished(
            f"task {task_id} has not ended ({place}): cancel it or let it end first"
        )
    if key is not None and not (yield SQL.call("take_key", queue=queue, id=task_id)):
        raise IdempotencyConflict(
            f"another unfinished task holds the idempotency key {shown(key)} of task {task_id}: "
            "retry once it has ended"
        )
    yield SQL.call("restage", queue=queue, id=task_id, **_wake(queue))


def list_page(
    queue: int,
    *,
    org: str | None = None,
    name: str | None = None,
    place: Place | None = None,
    status: AttemptStatus | None = None,
    before: int = BEFORE_ALL,
    limit: int = 100,
) -> Operation:
    """Return up to `limit` `TaskLine`s with ids below `before`, newest first."""
    rows = yield SQL.call(
        "list_page",
        queue=queue,
        org=org,
        name=name,
        place=place,
        status=status,
        before=before,
        limit=limit,
    )
    return [task_line(row) for row in rows]


def task_line(row: Row) -> TaskLine:
    """Build a `TaskLine` from a row of `list_page`."""
    task_id, name, org, workload, priority, created_at, place, attempt, status = row
    return TaskLine(
        task_id,
        name,
        org,
        workload,
        priority,
        created_at,
        Place(place),
        attempt,
        AttemptStatus(status) if status else None,
    )


def _find(task_id: int) -> Operation:
    rows = yield SQL.call("find", id=task_id)
    if not rows:
        raise TaskNotFound(f"no task {task_id}")
    return rows[0]


def _where(found: Row) -> dict[str, object]:
    return {
        "queue": found[0],
        "id": found[2],
        "org": found[4],
        "workload": found[5],
        "priority": found[6],
    }


def _wake(queue: int) -> dict[str, str]:
    return {"channel": staged_channel(queue), "doze": doze_sequence(queue)}


def _info(found: Row, places: Sequence[Row], history: Sequence[Row]) -> TaskInfo:
    attempts = tuple(
        Attempt(number, AttemptStatus(status), *columns) for number, status, *columns in history
    )
    final = [attempt for attempt in attempts if attempt.final]
    place, attempt, run_at, worker, lease = (
        places[0] if places else ("ended", final[-1].attempt, None, None, None)
    )
    (_, queue, task_id, name, org, workload, priority, max_attempts, timeout_s) = found[:9]
    (payload, headers, created_at, _, expires_at, key) = found[9:]
    return TaskInfo(
        id=task_id,
        name=name,
        org=org,
        queue=queue,
        workload=workload,
        priority=priority,
        place=Place(place),
        status=None if places else final[-1].status,
        attempt=attempt,
        max_attempts=max_attempts,
        payload_text=payload or "null",
        headers=json.loads(headers) if headers else {},
        created_at=created_at,
        run_at=run_at,
        expires_at=expires_at,
        timeout_s=timeout_s,
        idempotency_key=key,
        worker=worker,
        lease_expires_at=lease,
        history=attempts,
    )
