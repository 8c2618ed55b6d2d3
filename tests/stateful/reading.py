"""Everything the tables say about one queue, read at once, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg import Connection

Rows = list[tuple[Any, ...]]

_PLACES = """
select task_id, org_id, workload, neg_priority, attempt, lost from orchestrator.{} where queue = %s
"""
_STATEMENTS = (
    _PLACES.format("staging_queue"),
    _PLACES.format("scheduled_queue"),
    """select task_id, dispatch_key, org_id, workload, priority, attempt, lost, claim_id
         from orchestrator.task_queue where queue = %s""",
    """select claim_id, task_ids, cancelled, expires_at <= clock_timestamp()
         from orchestrator.lease where queue = %s""",
    """select task_id, attempt, status, final, dispatch_key
         from orchestrator.task_attempt where queue = %s""",
    "select org_id, key, task_id from orchestrator.idempotency_key where queue = %s",
    """select virtual_time, admit_seq, kappa, contended
         from orchestrator.queue_state where queue = %s""",
    "select org_id, tag, virtual_time, in_flight from orchestrator.org_state where queue = %s",
    "select org_id, workload, tag from orchestrator.flow_state where queue = %s",
    """select epoch, (select epoch from orchestrator.tick_log t where t.queue = l.queue
                       order by admit_seq desc limit 1)
         from orchestrator.orchestrator_lock l where queue = %s""",
    "select count(*) from orchestrator.task where queue = %s",
)
# What a tick that has nothing to do must leave alone, down to the row versions.
_VERSIONS = """
select 'queue', queue::text, ctid::text, xmin::text, xmax::text
  from orchestrator.queue_state where queue = %(queue)s
union all select 'org', org_id, ctid::text, xmin::text, xmax::text
  from orchestrator.org_state where queue = %(queue)s
union all select 'flow', org_id || '/' || workload, ctid::text, xmin::text, xmax::text
  from orchestrator.flow_state where queue = %(queue)s
union all select 'journal', seq::text, '', '', ''
  from orchestrator.cut_journal where queue = %(queue)s
union all select 'lock', epoch::text, ctid::text, xmin::text, xmax::text
  from orchestrator.orchestrator_lock where queue = %(queue)s
union all select 'ticks', count(*)::text, '', '', ''
  from orchestrator.tick_log where queue = %(queue)s
union all select 'floor', pg_sequence_last_value(%(floor)s::regclass)::text, '', '', ''
"""


@dataclass(frozen=True, slots=True)
class Lease:
    """One claim call as it is leased: its tasks, the keys asked to stop, and whether it is over."""

    tasks: tuple[int, ...]
    cancelled: frozenset[int]
    over: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """One queue as its tables show it."""

    staged: dict[int, tuple[Any, ...]]
    scheduled: dict[int, tuple[Any, ...]]
    queued: dict[int, tuple[Any, ...]]
    leases: dict[UUID, Lease]
    log: dict[int, list[tuple[Any, ...]]]
    keys: dict[tuple[str, str], int]
    virtual_time: int
    admit_seq: int
    kappa: int
    contended: bool
    orgs: dict[str, tuple[int, int, int]]
    flows: dict[tuple[str, str], int]
    epoch: int
    # Of the last tick that admitted; None before the first.
    ticked_epoch: int | None
    records: int
    floor: int | None


def read(connection: Connection[Any], queue: int) -> Reading:
    """Read the queue, once its cut is folded; nobody else may be writing."""
    with connection.pipeline():
        connection.execute("select orchestrator.fold_cut(%s, 0, 100000)", [queue])
        cursors = [connection.execute(statement.encode(), [queue]) for statement in _STATEMENTS]
        floor = connection.execute(
            "select pg_sequence_last_value(%s::regclass)", [f"orchestrator.floor_{queue}"]
        )
    found: list[list[Any]] = [cursor.fetchall() for cursor in cursors]
    (staged, scheduled, queued, leases, attempts, keys, state, orgs, flows, lock, records) = found
    log: dict[int, list[tuple[Any, ...]]] = {}
    for task_id, *line in sorted(attempts, key=repr):
        log.setdefault(task_id, []).append(tuple(line))
    virtual_time, admit_seq, kappa, contended = state[0]
    epoch, ticked_epoch = lock[0]
    return Reading(
        staged={row[0]: row[1:] for row in staged},
        scheduled={row[0]: row[1:] for row in scheduled},
        queued={row[0]: row[1:] for row in queued},
        leases={c: Lease(tuple(ids), frozenset(told), over) for c, ids, told, over in leases},
        log=log,
        keys={(org, key): task_id for org, key, task_id in keys},
        virtual_time=virtual_time,
        admit_seq=admit_seq,
        kappa=kappa,
        contended=contended,
        orgs={org: tuple(rest) for org, *rest in orgs},
        flows={(org, workload): tag for org, workload, tag in flows},
        epoch=epoch,
        ticked_epoch=ticked_epoch,
        records=records[0][0],
        floor=floor.fetchall()[0][0],
    )


def versions(connection: Connection[Any], queue: int) -> Rows:
    """Return the row versions of all that a leader writes."""
    params = {"queue": queue, "floor": f"orchestrator.floor_{queue}"}
    return sorted(connection.execute(_VERSIONS.encode(), params).fetchall(), key=repr)
