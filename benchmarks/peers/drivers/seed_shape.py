"""seed-shape: an index over every row of the queue, leased or not, and visibility as a filter.

A lease moves `vt` into the future and the row stays where it is in the index, so that every lease
walks past what is leased already.
"""

from __future__ import annotations

from benchmarks.peers.drivers.common import main
from benchmarks.peers.drivers.handwritten import Handwritten, Statements

SEED_SHAPE = Statements(
    create=(
        """
        create table job (
          id         bigint generated always as identity primary key,
          queue      text not null default 'default',
          name       text not null,
          org        text not null,
          payload    jsonb not null,
          priority   integer not null default 0,
          attempts   integer not null default 0,
          created_at timestamptz not null default clock_timestamp(),
          vt         timestamptz not null default clock_timestamp()
        )
        """,
        "create index job_order on job (queue, priority desc, id)",
    ),
    lease="""
        with free as materialized (
          select id from job
           where queue = 'default' and vt <= now()
           order by priority desc, id
           limit %s
             for update skip locked
        )
        update job
           set vt = clock_timestamp() + interval '30 seconds', attempts = attempts + 1
          from free
         where job.id = free.id
        returning job.id, job.payload::text
    """,
)

if __name__ == "__main__":
    main(Handwritten("seed-shape", SEED_SHAPE))
