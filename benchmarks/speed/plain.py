"""The two hand-written queues on prepared databases: raw and seed-shape, driven by their drivers.

Both have one table, `job`, with a priority; a lease in front of the others is a row of a higher
one that is not due for a day.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import psycopg

from benchmarks.load import settle
from benchmarks.peers.peer import Load, Peer, PeerFailed, Work, enqueue, setup, working
from benchmarks.peers.registry import RAW, SEED_SHAPE
from benchmarks.speed.preload import ORGS


class Plain(NamedTuple):
    """One of them, and the statement that puts `%s` leased tasks in front."""

    peer: Peer
    lease: str


class Worked(NamedTuple):
    """What one worker process did: tasks per second, and when each handler started, in order."""

    per_s: float
    starts_ns: Sequence[int]


PLAIN_RAW = Plain(
    RAW,
    "insert into job (name, org, payload, priority, attempts, lease_until)"
    " select 'noop', 'leased', '{}', 10, 1, clock_timestamp() + interval '1 day'"
    "   from generate_series(1, %s)",
)
PLAIN_SEED_SHAPE = Plain(
    SEED_SHAPE,
    "insert into job (name, org, payload, priority, attempts, vt)"
    " select 'noop', 'leased', '{}', 10, 1, clock_timestamp() + interval '1 day'"
    "   from generate_series(1, %s)",
)


def plain_filled(plain: Plain, tasks: int, *, leased: int = 0) -> Callable[[str], None]:
    """Return what makes a database of it with so many tasks leased, and others behind them."""

    def fill(dsn: str) -> None:
        setup(plain.peer, dsn)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(plain.lease.encode(), [leased])
            enqueue(plain.peer, dsn, Load(tasks, orgs=ORGS, bulk=True))
            settle(connection)

    return fill


def work(plain: Plain, dsn: str, tasks: int, *, patience_s: float, trace: bool = False) -> Worked:
    """Let one worker in its fast configuration take `tasks` tasks, or what it can in that time.

    Raises `PeerFailed`, also where not even a second batch was begun.
    """
    with (
        tempfile.TemporaryDirectory() as directory,
        working(plain.peer, dsn, Path(directory)) as at_work,
    ):
        at_work.start(Work(fast=True, trace=trace))
        at_work.wait(tasks, patience_s)
        rate = at_work.rate.per_s
        if not rate:
            raise PeerFailed(f"{plain.peer.name}: nothing to time within {patience_s:g} s")
        at_work.stop()
        return Worked(rate, [start.started_ns for start in at_work.starts()] if trace else [])
