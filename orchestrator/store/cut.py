"""The leader's cut: as a new term loads it, counted again, and derived anew from the tables."""

from __future__ import annotations

from orchestrator.fairness import TAG_MIN, Lane
from orchestrator.store.admission import QueueRow
from orchestrator.store.sql import Operation, Statements

SQL = Statements("cut")

# No statement of a load is near its timeout, no pause between two near the idle timeout.
_CHUNK = 10_000
_FLOWS_CHUNK = 500
# Orgs and flows that one statement folds: less than 0.1 s.
FOLDED_AT_ONCE = 5_000
# How far one flow is counted where its count is not known: more is learnt once that much is
# admitted.
COUNT_MAX = 1_000


def fold(queue: int, after: int = 0, most: int = FOLDED_AT_ONCE) -> Operation:
    """Fold the next ticks of the journal after one into the tables of orgs and flows, by about
    `most` of them; return the number of the last tick, None = there were none.
    """
    rows = yield SQL.call("fold", queue=queue, after=after, most=most)
    return rows[0][0]


def load_queue(queue: int) -> Operation:
    """Return (`QueueRow`, the cluster that wrote it or "0", this cluster)."""
    rows = yield SQL.call("load_queue", queue=queue)
    *state, stored, actual = rows[0]
    return QueueRow(*state), stored, actual


def load_orgs(queue: int, after: str) -> Operation:
    """Return the next persisted orgs of the queue after one, by name; none = that was all.

    Each is a plain tuple of the statement's columns: they come by the hundred thousand, and are
    taken apart at once.
    """
    return (yield SQL.call("load_orgs", queue=queue, after=after, limit=_CHUNK))


def load_flows(queue: int, after: tuple[str, str]) -> Operation:
    """Return the next persisted flows of the queue after one; none = that was all.

    Each is a plain tuple of the statement's columns.
    """
    return (
        yield SQL.call(
            "load_flows", queue=queue, after_org=after[0], after_workload=after[1], limit=_CHUNK
        )
    )


def count_flows(queue: int, after: tuple[str, str], counted: str) -> Operation:
    """Return [(org, workload, its staged tasks, counted up to `COUNT_MAX`)] of the next flows that
    have any of which the feed up to `counted` has told; none = that was all.
    """
    return (
        yield SQL.call(
            "count_flows",
            queue=queue,
            after_org=after[0],
            after_workload=after[1],
            counted=counted,
            limit=_FLOWS_CHUNK,
            most=COUNT_MAX,
        )
    )


def count_flow(
    queue: int, org: str, workload: str, cursor: tuple[int, int], counted: str, most: int
) -> Operation:
    """Count the staged tasks of one flow from `cursor` on, up to `most`; only those of which the
    feed up to `counted` has told.
    """
    rows = yield SQL.call(
        "count_flow",
        queue=queue,
        org=org,
        workload=workload,
        cursor_priority=cursor[0],
        cursor_id=cursor[1],
        counted=counted,
        most=most,
    )
    return rows[0][0]


def count_in_flight(queue: int, attempt_snapshot: str) -> Operation:
    """Return {(org, lane): unfinished rows plus ended ones that the feed has yet to report}."""
    rows = yield SQL.call("count_in_flight", queue=queue, prev=attempt_snapshot)
    return {(org, Lane(reserved)): count for org, reserved, count in rows}


def adopt(queue: int, system_identifier: str) -> Operation:
    """Note that the snapshots of the queue belong to this cluster."""
    yield SQL.call("adopt_state", queue=queue, system_identifier=int(system_identifier))


def adopt_rows(queue: int) -> Operation:
    """Make rows that another cluster stamped old, a chunk of them; return how many that were."""
    rows = yield SQL.call("adopt_rows", queue=queue, limit=_CHUNK)
    return rows[0][0]


def rebuild(queue: int, system_identifier: str) -> Operation:
    """Derive the cut anew from the tables; in one REPEATABLE READ transaction, under the fence."""
    snapshot = yield SQL.call("current_snapshot")
    yield SQL.call(
        "restart_state",
        queue=queue,
        system_identifier=int(system_identifier),
        snapshot=snapshot[0][0],
    )
    yield SQL.call("rebuild_orgs", queue=queue)
    yield SQL.call("rebuild_flows", queue=queue)


def renormalise(queue: int) -> Operation:
    """Take every virtual time of the queue off the tags that are compared with it."""
    yield SQL.call("renormalise", queue=queue, lowest=TAG_MIN)
