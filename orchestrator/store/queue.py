"""Claim, extend, finish, give back, reap: what happens to admitted tasks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple
from uuid import UUID

from orchestrator.model import AttemptStatus, Claim, Extension
from orchestrator.store.names import (
    doze_sequence,
    express_floor_sequence,
    floor_sequence,
    staged_channel,
)
from orchestrator.store.packed import Int8s, Texts, Uuids
from orchestrator.store.parts import Parted
from orchestrator.store.sql import Batch, Call, Operation, Row, Statements

SQL = Statements("queue")
_WITH_RECORDS, _APART = ("records",), ("apart",)
CLAIM = Parted(SQL, "claim", _WITH_RECORDS, _APART)
# By whether a task has a key, and whether a lease may hold more than what ends.
_FINISHING = {
    (False, False): (),
    (False, True): ("rest",),
    (True, False): ("keyed",),
    (True, True): ("keyed", "rest"),
}
FINISH = Parted(SQL, "finish", *_FINISHING.values())

# Up to so many tasks of a claim, one statement is cheaper than one that claims and one that reads.
FEW = 8

_BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)
# Of a cost, instead of NULL.
_UNSAID = -1
# What is known of a task whose record is gone.
_GONE = (*(None,) * 10, True)


class Ending(NamedTuple):
    """How one claimed attempt ends; `delay_s` counts only for those that are given back.

    `cost_us` is the worker time it took, as measured by the worker; None = since it was claimed.
    `keyed` is False only where it is known that the task has no idempotency key to be freed.
    """

    dispatch_key: int
    claim_id: UUID
    status: AttemptStatus
    error: str | None = None
    delay_s: float = 0.0
    cost_us: int | None = None
    keyed: bool = True


_KEYED = attrgetter("keyed")


class Quota(NamedTuple):
    """How many tasks a claim may take: in all, of ordinary ones, of express ones."""

    limit: int
    main: int
    express: int


def claim(
    queue: int,
    name: str,
    claim_id: UUID,
    *,
    limit: int,
    lease_s: float,
    worker: str,
    main_limit: int | None = None,
    express_limit: int | None = None,
) -> Operation:
    """Claim up to `limit` ready tasks of the queue for `lease_s` seconds; return `list[Claim]`.

    `take` says the rest.
    """
    quota = Quota(
        limit,
        main=limit if main_limit is None else min(limit, main_limit),
        express=limit if express_limit is None else min(limit, express_limit),
    )
    return (
        yield from take(
            queue, name, claim_id, quota=quota, lease_s=lease_s, worker=worker, few=limit <= FEW
        )
    )


def take(
    queue: int,
    name: str,
    claim_id: UUID,
    *,
    quota: Quota,
    lease_s: float,
    worker: str,
    few: bool = False,
) -> Operation:
    """Claim ready tasks of the queue for `lease_s` seconds; return `list[Claim]` in claim order.

    Express tasks come first. At most `quota.main` are ordinary and `quota.express` express: a
    worker that keeps slots for express work asks for fewer ordinary tasks. `few` says that hardly
    more than `FEW` will be found, whatever the quota: that is cheaper then.
    """
    claiming = CLAIM.call(
        _WITH_RECORDS if few else _APART,
        queue=queue,
        claim_id=claim_id,
        limit=quota.limit,
        main_limit=quota.main,
        express_limit=quota.express,
        lease_s=lease_s,
        worker=worker,
        floor=floor_sequence(queue),
        express_floor=express_floor_sequence(queue),
    )
    if few:
        rows = yield claiming
        return [
            _claim(
                _gone(row[2]) if row[5] is None else row[5:],
                row[1],
                row[3],
                name,
                claim_id,
                row[0],
                row[4],
            )
            for row in sorted(rows, key=itemgetter(1))
        ]
    taken, records = yield Batch(
        [claiming, SQL.call("claimed_tasks", queue=queue, claim_id=claim_id)]
    )
    if not taken:
        return []
    until, keys, task_ids, attempts, lost_ids, lost_counts = taken[0]
    lost = dict(zip(lost_ids or (), lost_counts or (), strict=True))
    found = {record[0]: record for record in records}
    return [
        _claim(
            found.get(task_id) or _gone(task_id),
            key,
            attempt,
            name,
            claim_id,
            until,
            lost.get(task_id, 0),
        )
        for key, task_id, attempt in zip(keys, task_ids, attempts, strict=True)
    ]


def _gone(task_id: int) -> Row:
    """Return a record of nothing: the task is seen and ended, rather than leased for ever."""
    return (task_id, *_GONE)


def leased_keys(queue: int, claim_id: UUID) -> Operation:
    """Return the dispatch keys that are leased under `claim_id`."""
    rows = yield SQL.call("leased_keys", queue=queue, claim_id=claim_id)
    return rows[0][0] if rows else []


def any_ready(queue: int) -> Operation:
    """Tell whether anything unclaimed is in the queue, though another transaction may hold it."""
    rows = yield SQL.call(
        "any_ready",
        queue=queue,
        floor=floor_sequence(queue),
        express_floor=express_floor_sequence(queue),
    )
    return rows[0][0]


def express_part(queue: int) -> Operation:
    """Return which part of its slots the queue keeps for express work: None = a tenth, 0 = none."""
    rows = yield SQL.call("express_part", queue=queue)
    return rows[0][0] if rows else 0.0


def _claim(
    record: Row,
    key: int,
    attempt: int,
    queue: str,
    claim_id: UUID,
    until: datetime,
    lost: int,
) -> Claim:
    (task_id, name, payload, org, workload) = record[:5]
    (priority, max_attempts, timeout_s, headers, created_at, waited_s, keyed) = record[5:]
    return Claim.of(
        {
            "id": task_id,
            "name": name,
            "payload_text": payload,
            "org": org or "",
            "queue": queue,
            "workload": workload or "",
            "priority": priority or 0,
            "attempt": attempt,
            "max_attempts": max_attempts or 0,
            "claim_id": claim_id,
            "lease_expires_at": until,
            "dispatch_key": key,
            "timeout_s": timeout_s,
            "headers": json.loads(headers) if headers else {},
            "created_at": created_at,
            "lost": lost,
            "waited_s": waited_s if attempt == 1 else None,
            "keyed": keyed,
        }
    )


def extend(queue: int, claim_ids: Sequence[UUID], lease_s: float) -> Operation:
    """Move the end of the leases that still run; return `list[Extension]`, without the lost
    ones.
    """
    rows = yield SQL.call("extend", queue=queue, claims=Uuids(claim_ids), lease_s=lease_s)
    return [
        Extension(claim_id, until, frozenset(cancelled), frozenset(yielding))
        for claim_id, until, cancelled, yielding in rows
    ]


def finish(
    queue: int,
    endings: Sequence[Ending],
    *,
    worker: str | None,
    closing: Sequence[UUID] = (),
    whole: bool = False,
) -> Operation:
    """End attempts for good; return the set of dispatch keys that ended, without those raced away.

    `closing` names leases whose last task this call ends: they are deleted with it. `whole` says
    that it ends every task of them: that is cheaper.
    """
    ended: set[int] = set()
    for distinct in _distinct(_ordered(endings)):
        keyed = any(map(_KEYED, distinct))
        rows = yield _finishing(queue, distinct, keyed, not whole, closing, worker)
        ended.update(rows[0][0] or ())
    if whole and len(ended) < len(endings):
        # What raced away is missing from what went: look whether anything stands.
        yield _finishing(queue, [], False, True, closing, worker)
    return ended


def _finishing(
    queue: int,
    distinct: Sequence[Ending],
    keyed: bool,
    rest: bool,
    closing: Sequence[UUID],
    worker: str | None,
) -> Call:
    return FINISH.call(
        _FINISHING[keyed, rest],
        queue=queue,
        **_columns(distinct),
        closing=Uuids(closing),
        worker=worker,
        channel=staged_channel(queue),
        doze=doze_sequence(queue),
    )


def give_back(queue: int, endings: Sequence[Ending], *, worker: str | None) -> Operation:
    """End attempts that may be tried again; return `{dispatch key: how it really ended}`.

    Needs a transaction: the leases are locked first, so that a cancellation is never overlooked.
    """
    ordered = _ordered(endings)
    claims = sorted({ending.claim_id for ending in ordered})
    yield SQL.call("lock_leases", queue=queue, claims=claims)
    rows = yield SQL.call(
        "give_back",
        queue=queue,
        **_columns(ordered),
        delays_s=[ending.delay_s for ending in ordered],
        worker=worker,
        channel=staged_channel(queue),
        doze=doze_sequence(queue),
    )
    return {key: AttemptStatus(verdict) for key, verdict, _ in rows}


def reap(queue: int, *, limit: int) -> Operation:
    """Take back the tasks of up to `limit` expired leases; return `[(task id, verdict)]`.

    Needs a transaction: the leases are locked in a statement before the one that reads them. Leases
    all of whose rows are held by open transactions are passed over for later ones.
    """
    after_at, after_id = _BEGINNING, UUID(int=0)
    while True:
        expired = yield SQL.call(
            "lock_expired", queue=queue, limit=limit, after_at=after_at, after_id=after_id
        )
        if not expired:
            return []
        rows = yield SQL.call("reap", queue=queue, claims=[row[0] for row in expired])
        if rows or len(expired) < limit:
            return [(task_id, AttemptStatus(verdict)) for task_id, verdict in rows]
        after_id, after_at = expired[-1]


def expire(queue: int, *, limit: int) -> Operation:
    """End up to `limit` tasks of each place whose deadline has passed; return how many."""
    ended = 0
    for place in ("expire_ready", "expire_staged", "expire_scheduled"):
        rows = yield SQL.call(place, queue=queue, limit=limit)
        ended += len(rows)
    return ended


def promote(queue: int, *, since: datetime, limit: int) -> Operation:
    """Stage up to `limit` scheduled tasks that are due, looking from `since` on; return how
    many.
    """
    rows = yield SQL.call("promote", queue=queue, since=since, limit=limit)
    return len(rows)


def lift(queue: int, *, max_wait_s: float, limit: int) -> Operation:
    """Move tasks older than `max_wait_s` to the top of their flows; return how many, bounded."""
    rows = yield SQL.call("lift", queue=queue, max_wait_s=max_wait_s, limit=limit)
    return len(rows)


def _ordered(endings: Sequence[Ending]) -> list[Ending]:
    # By key: the lock order of everything that touches task_queue.
    return sorted(endings, key=itemgetter(0))


def _distinct(ordered: Sequence[Ending]) -> Iterator[Sequence[Ending]]:
    """Yield batches in which no key stands twice: usually one.

    Who sends a key under two claim ids has one that holds, if any, and we do not know which.
    """
    while ordered:
        batch: list[Ending] = []
        again: list[Ending] = []
        last = None
        for ending in ordered:
            (again if ending[0] == last else batch).append(ending)
            last = ending[0]
        yield batch
        ordered = again


def _columns(ordered: Sequence[Ending]) -> dict[str, list[Any]]:
    # Most endings of a batch are alike: how each ended is said once and referred to by its number.
    hows: dict[tuple[UUID, AttemptStatus, str | None], int] = {}
    numbers, number = Int8s(), 0
    claim_id = status = error = None
    for ending in ordered:
        if ending[1] is not claim_id or ending[2] is not status or ending[3] is not error:
            _, claim_id, status, error, *_ = ending
            number = hows.setdefault((claim_id, status, error), len(hows) + 1)
        numbers.append(number)
    return {
        "keys": Int8s(ending.dispatch_key for ending in ordered),
        "hows": numbers,
        "costs_us": Int8s(
            _UNSAID if ending.cost_us is None else ending.cost_us for ending in ordered
        ),
        "claims": Uuids(claim_id for claim_id, _, _ in hows),
        "statuses": Texts(str(status) for _, status, _ in hows),
        "errors": Texts(error for _, _, error in hows),
    }
