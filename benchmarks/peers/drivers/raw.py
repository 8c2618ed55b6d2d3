"""raw: the floor. A partial index on what is not leased, in the order in which it is leased."""

from __future__ import annotations

from benchmarks.peers.drivers.common import main
from benchmarks.peers.drivers.handwritten import Handwritten, Statements

RAW = Statements(
    create=(
        """
        create table job (
          id          bigint generated always as identity primary key,
          name        text not null,
          org         text not null,
          payload     jsonb not null,
          priority    integer not null default 0,
          attempts    integer not null default 0,
          created_at  timestamptz not null default clock_timestamp(),
          lease_until timestamptz
        )
        """,
        "create index job_free on job (priority desc, id) where lease_until is null",
    ),
    lease="""
        with free as materialized (
          select ctid as place from job
           where lease_until is null
           order by priority desc, id
           limit %s
             for update skip locked
        )
        update job
           set lease_until = clock_timestamp() + interval '30 seconds', attempts = attempts + 1
         where ctid = any (array(select place from free))
        returning job.id, job.payload::text
    """,
)

if __name__ == "__main__":
    main(Handwritten("raw", RAW))
