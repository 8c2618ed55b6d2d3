"""staged: raw behind a staging table, what a queue costs that stages first and decides nothing.

Enqueueing inserts the record of a task and a row into `staged`. One process, the verb `lead`, moves
rows from there to `job`, oldest first, in batches, as soon as they come. Workers lease from `job`,
read the records, and delete from `job` as ack, which logs the attempt in the same statement. The
record stays. Notifications wake the mover and the workers; without them, both look every half
second.

It does not tell one org from another, counts nothing, keeps no window of what is ready, and has no
fence: two movers would not move a row twice, but nobody keeps a second one away. As in raw, a lease
that has run out is not taken back, and nothing is tried again.
"""

from __future__ import annotations

import sys
from typing import LiteralString

from benchmarks.peers.drivers.common import main, sigterm
from benchmarks.peers.drivers.handwritten import (
    Handwritten,
    Statements,
    await_notice,
    connected,
)

# Rows of one move.
_MOVED = 1_000

STAGED = Statements(
    create=(
        """
        create table task (
          id         bigint generated always as identity primary key,
          name       text not null,
          org        text not null,
          payload    jsonb not null,
          priority   integer not null default 0,
          created_at timestamptz not null default clock_timestamp()
        )
        """,
        """
        create table staged (
          task_id  bigint primary key,
          org      text not null,
          priority integer not null
        )
        """,
        """
        create table job (
          id          bigint primary key,
          org         text not null,
          priority    integer not null,
          attempts    integer not null default 0,
          lease_until timestamptz
        )
        """,
        "create index job_free on job (priority desc, id) where lease_until is null",
        """
        create table attempt (
          task_id  bigint not null,
          org      text not null,
          attempt  integer not null,
          status   text not null,
          ended_at timestamptz not null default clock_timestamp()
        )
        """,
        "create index attempt_of on attempt (task_id)",
        # Has a value once a mover listens. Before, nobody notifies it: a notification takes a lock
        # that every commit of the database needs.
        "create sequence listening",
    ),
    insert="""
        with stored as (
          insert into task (name, org, payload) values (%s, %s, %s::jsonb)
          returning id, org, priority
        ), waiting as (
          insert into staged (task_id, org, priority) select id, org, priority from stored
        )
        select pg_notify('staged', '') where pg_sequence_last_value('listening'::regclass) = 1
    """,
    insert_many="""
        with stored as (
          insert into task (name, org, payload)
          select %s, given.org, given.payload::jsonb
            from unnest(%s::text[], %s::text[]) as given (org, payload)
          returning id, org, priority
        ), waiting as (
          insert into staged (task_id, org, priority) select id, org, priority from stored
        )
        select pg_notify('staged', '') where pg_sequence_last_value('listening'::regclass) = 1
    """,
    # By place and one by one: whatever the statistics say of tables that fill and empty within
    # seconds, no plan reads one of them as a whole.
    lease="""
        with free as materialized (
          select ctid as place from job
           where lease_until is null
           order by priority desc, id
           limit %s
             for update skip locked
        ), leased as (
          update job
             set lease_until = clock_timestamp() + interval '30 seconds', attempts = attempts + 1
           where ctid = any (array(select place from free))
          returning id
        )
        select leased.id, record.payload
          from leased
         cross join lateral (
           select payload::text as payload from task where task.id = leased.id offset 0) as record
    """,
    ack="""
        with done as (
          delete from job where id = any (%s::bigint[]) returning id, org, attempts
        )
        insert into attempt (task_id, org, attempt, status)
        select id, org, attempts, 'succeeded' from done
    """,
    pending="select (select count(*) from staged) + (select count(*) from job)",
    analyze="analyze task, staged",
    listen="listen ready",
)
_MOVE: LiteralString = """
    with head as materialized (
      select ctid as place from staged order by task_id limit %s
    ), gone as (
      delete from staged where ctid = any (array(select place from head))
      returning task_id, org, priority
    ), moved as (
      insert into job (id, org, priority) select task_id, org, priority from gone
      returning id
    )
    select count(*), case when count(*) > 0 then pg_notify('ready', '') end from moved
"""


def lead() -> None:
    """Move what is staged to where workers lease it, until SIGTERM."""
    stop = sigterm()
    with connected() as connection:
        # A move that a crash of the server undoes is made again; whoever is given its tasks waits
        # for both commits.
        connection.execute("set synchronous_commit to off")
        connection.execute("listen staged")
        connection.execute("select setval('listening', 1)")
        while not stop.is_set():
            row = connection.execute(_MOVE, [_MOVED], prepare=True, binary=True).fetchone()
            if row is None or row[0] < _MOVED:
                await_notice(connection)


if __name__ == "__main__":
    if sys.argv[1:] == ["lead"]:
        lead()
    else:
        main(Handwritten("staged", STAGED))
