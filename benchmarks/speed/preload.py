"""Databases that were filled once and are copied for each measurement.

A million tasks take half a minute to load and a second to copy. Every measurement gets a database
of its own, copied file by file: the same rows in the same places, no statistics of earlier runs,
nothing of it in the server's memory, and a checkpoint right before.

Tasks are put in place by SQL, as enqueues and claims would have left them: records, references,
leases, the counts that the leader resumes from, ids and keys in the order of their making.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import Connection, sql
from psycopg.conninfo import make_conninfo

from benchmarks.load import PORTION, settle, stage_tasks
from benchmarks.stage import QUEUE, SETTINGS, Stage, stage_at
from orchestrator.embedded import throwaway
from orchestrator.store import migrate, retention
from orchestrator.store.sql import run

ORGS = 20
# One claim takes up to so many tasks, and they share a lease.
_TASKS_IN_LEASE = 500


class Bed:
    """A server with databases to be copied."""

    def __init__(self, dsn: str, connection: Connection[Any]) -> None:
        self._dsn = dsn
        self._connection = connection
        self._copies = 0

    def prepare(self, name: str, fill: Callable[[str], None]) -> None:
        """Create the database `name`, and let `fill` put into it what every copy shall have."""
        self._do("create database {}", name)
        fill(self._at(name))

    @contextmanager
    def copy(self, name: str) -> Iterator[str]:
        """Yield the DSN of a copy of a prepared database; it is dropped afterwards."""
        self._copies += 1
        copied = f"{name}_{self._copies}"
        # Writes a checkpoint before and after, so that every copy begins right after one.
        self._do("create database {} template {} strategy file_copy", copied, name)
        try:
            yield self._at(copied)
        finally:
            self._do("drop database {} with (force)", copied)

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Yield a stage on a copy of a prepared database of ours."""
        with self.copy(name) as dsn, stage_at(dsn) as on:
            yield on

    def _at(self, name: str) -> str:
        return make_conninfo(self._dsn, dbname=name)

    def _do(self, statement: str, *names: str) -> None:
        composed = sql.SQL(statement).format(*map(sql.Identifier, names))
        self._connection.execute(composed)


@contextmanager
def bed(**settings: str) -> Iterator[Bed]:
    """Yield a `Bed` on a fresh server; nothing of it is left afterwards."""
    with (
        throwaway(settings=SETTINGS | settings) as dsn,
        psycopg.connect(dsn, autocommit=True) as connection,
    ):
        yield Bed(dsn, connection)


def filled(staged: int, *, leased: int = 0) -> Callable[[str], None]:
    """Return what makes a database of ours with so many tasks leased, and others staged behind."""

    def fill(dsn: str) -> None:
        migrate.upgrade(dsn)
        with psycopg.connect(dsn, autocommit=True) as connection:
            put_leased(connection, leased)
            stage_tasks(connection, staged, ORGS)
            settle(connection)

    return fill


def put_leased(connection: Connection[Any], tasks: int) -> None:
    """Admit and claim so many tasks of one org without a cap, of the highest priority.

    Their keys are those that admissions from the first one on give, so they lie before all keys to
    come. Their leases hold for a day.
    """
    if not tasks:
        return
    begin = _last_id(connection)
    for first, last in _portions(connection, tasks):
        connection.execute(_RECORDS, {"first": first, "last": last})
        connection.execute(
            _CLAIMED, {"first": first, "last": last, "before": begin, "size": _TASKS_IN_LEASE}
        )
    connection.execute(_LEASES)
    connection.execute(_ORG_STATE, {"tasks": tasks})
    connection.execute(_FLOW_STATE)
    connection.execute(_ADMISSIONS, {"tasks": tasks})


def _portions(connection: Connection[Any], tasks: int) -> Iterator[tuple[int, int]]:
    """Take the next `tasks` ids, with the partitions for them; yield their ranges, both ends in."""
    first = _last_id(connection) + 1
    last = first + tasks - 1
    connection.execute("select setval('orchestrator.task_id', %s)", [last])
    run(connection, retention.create_ahead())
    for start in range(first, last + 1, PORTION):
        yield start, min(start + PORTION - 1, last)


def _last_id(connection: Connection[Any]) -> int:
    row = connection.execute(
        "select coalesce(pg_sequence_last_value('orchestrator.task_id'), 0)"
    ).fetchone()
    assert row is not None
    return int(row[0])


_RECORDS = f"""
insert into orchestrator.task (queue, id, org_id, workload, priority, name, payload, max_attempts)
select {QUEUE}, id, 'leased', 'etl', 10, 'noop', '{{}}', 5
  from generate_series(%(first)s::bigint, %(last)s::bigint) as id
"""  # noqa: S608 - a number of this package
# The key is `(admit_seq - kappa * priority) * 16 + (10 - priority)`; all tasks of one lease, and no
# others, have the same claim id.
_CLAIMED = f"""
insert into orchestrator.task_queue (queue, dispatch_key, task_id, org_id, workload, priority,
                                     attempt, lost, expires_at, charged_us, weight, share, reserved,
                                     claim_id, claimed_at)
select {QUEUE}, (id - %(before)s - 10 * kappa) * 16, id, 'leased', 'etl', 10, 1, 0, 'infinity',
       1000000, 2, 2, false, md5(((id - %(before)s - 1) / %(size)s)::text)::uuid, clock_timestamp()
  from generate_series(%(first)s::bigint, %(last)s::bigint) as id
 cross join (select kappa from orchestrator.queue_state where queue = {QUEUE}) state
"""  # noqa: S608 - numbers of this package
_LEASES = f"""
insert into orchestrator.lease (queue, claim_id, worker, expires_at, dispatch_keys, task_ids,
                                attempts)
select {QUEUE}, claim_id, 'elsewhere', clock_timestamp() + interval '1 day',
       array_agg(dispatch_key order by dispatch_key), array_agg(task_id order by dispatch_key),
       array_agg(attempt order by dispatch_key)
  from orchestrator.task_queue where queue = {QUEUE} group by claim_id
"""  # noqa: S608 - a number of this package
_ORG_STATE = f"""
insert into orchestrator.org_state (queue, org_id, tag, virtual_time, in_flight, last_admit,
                                    express_tag, express_virtual_time, express_in_flight,
                                    eligible, express_eligible)
values ({QUEUE}, 'leased', 0, 0, %(tasks)s, %(tasks)s, 0, 0, 0, false, false)
"""  # noqa: S608 - a number of this package
_FLOW_STATE = f"""
insert into orchestrator.flow_state (queue, org_id, workload, tag, backlog, express_tag, cost_us)
values ({QUEUE}, 'leased', 'etl', 0, 0, 0, 0)
"""  # noqa: S608 - a number of this package
_ADMISSIONS = f"""
update orchestrator.queue_state set admit_seq = %(tasks)s where queue = {QUEUE}
"""  # noqa: S608 - a number of this package
