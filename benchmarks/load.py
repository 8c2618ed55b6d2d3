"""Bulk loads by SQL: the rows an enqueue makes, without the time it takes to send them."""

from __future__ import annotations

from typing import Any

from psycopg import Connection

from orchestrator.model import DEFAULT_WORKLOAD, PRIORITY_DEFAULT
from orchestrator.store import retention
from orchestrator.store.names import staged_channel
from orchestrator.store.sql import run

# Tasks of one statement, and so of one transaction where the connection is in autocommit.
PORTION = 100_000


def stage_tasks(
    connection: Connection[Any],
    tasks: int,
    orgs: int,
    *,
    queue: int = 1,
    name: str = "noop",
    payload: str = "{}",
) -> None:
    """Stage `tasks` tasks in turn for `org0`, `org1`, … (so many `orgs`), and wake the leader.

    `payload` is JSON as text. Partitions are made ahead, as the chores of a leader would.
    """
    for first in range(0, tasks, PORTION):
        run(connection, retention.create_ahead())
        connection.execute(
            _STAGE,
            {
                "queue": queue,
                "first": first,
                "last": min(tasks, first + PORTION) - 1,
                "orgs": orgs,
                "name": name,
                "payload": payload,
                "workload": DEFAULT_WORKLOAD,
                "priority": PRIORITY_DEFAULT,
            },
        )
    connection.execute("select pg_notify(%s, '')", [staged_channel(queue)])


def settle(connection: Connection[Any]) -> None:
    """Leave nothing of a load to be done later: vacuum, statistics and dirty pages."""
    connection.execute("vacuum analyze")
    connection.execute("checkpoint")


_STAGE = """
with item as materialized (
  select nextval('orchestrator.task_id') as id, 'org' || n %% %(orgs)s as org
    from generate_series(%(first)s::integer, %(last)s::integer) n
), stored as (
  insert into orchestrator.task (queue, id, org_id, workload, priority, name, payload, max_attempts)
  select %(queue)s, id, org, %(workload)s, %(priority)s, %(name)s, %(payload)s::jsonb, 5 from item
)
insert into orchestrator.staging_queue (queue, org_id, workload, neg_priority, task_id)
select %(queue)s, org, %(workload)s, -%(priority)s::smallint, id from item
"""
