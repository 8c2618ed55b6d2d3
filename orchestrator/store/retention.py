"""Partitions are made ahead of the ids, and dropped once everything in them has ended long ago."""

from __future__ import annotations

from typing import NamedTuple

from orchestrator.store.sql import Operation, Statements

SQL = Statements("retention")

PARTITION_IDS = 1_000_000
PARTITIONS_MAX = 12
AHEAD = 2


class Partition(NamedTuple):
    """One id range [low, high) of `task` and `task_attempt`."""

    low: int
    high: int


def create_ahead(width: int = PARTITION_IDS) -> Operation:
    """Create partitions until two lie ahead of the last id; return those created.

    Past `PARTITIONS_MAX` they double in width, so that their number stays bounded. Never one over
    ids that are already in the catch-all partition.
    """
    rows = yield SQL.call("partitions")
    last = rows[0][3] if rows else 0
    existing = [Partition(row[1], row[2]) for row in rows]
    landed = (yield SQL.call("highest_default"))[0][0]
    created: list[Partition] = []
    while sum(part.low > last for part in existing) < AHEAD:
        newest = existing[-1] if existing else Partition(0, 0)
        wide = max(width, newest.high - newest.low)
        if len(existing) >= PARTITIONS_MAX:
            wide *= 2
        # Ids that outran us stay where they landed; whoever is writing them now lands there too.
        low = newest.high if landed < newest.high else landed + wide
        part = Partition(low, low + wide)
        yield SQL.call("create_partition", low=part.low, high=part.high)
        existing.append(part)
        created.append(part)
    return created


def oldest_partitions() -> Operation:
    """Return the partitions that no new id can reach, oldest first."""
    rows = yield SQL.call("partitions")
    return [Partition(row[1], row[2]) for row in rows if row[2] <= row[3]]


def droppable(part: Partition, keep_s: float) -> Operation:
    """Tell whether everything in `part` ended more than `keep_s` seconds ago."""
    rows = yield SQL.call("unfinished_below", low=part.low, high=part.high, keep_s=keep_s)
    return not rows[0][0]


def drop(part: Partition, keep_s: float) -> Operation:
    """Drop `part` if it still may go, looked at again under its lock; return whether it went.

    Needs a transaction. Waits 50 ms for the lock and no longer: behind a long reader every writer
    of the table would queue up.
    """
    yield SQL.call("short_lock_timeout")
    yield SQL.call("lock_pair", low=part.low)
    if not (yield from droppable(part, keep_s)):
        return False
    yield SQL.call("drop_pair", low=part.low)
    return True


def trim(*, ticks_s: float, leadership_s: float, audit_s: float) -> Operation:
    """Delete log rows that are older than these many seconds."""
    yield SQL.call("trim_ticks", keep_s=ticks_s)
    yield SQL.call("trim_windows", keep_s=ticks_s)
    yield SQL.call("trim_leadership", keep_s=leadership_s)
    yield SQL.call("trim_audit", keep_s=audit_s)
