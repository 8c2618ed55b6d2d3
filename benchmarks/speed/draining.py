"""Drains, timed afterwards by the clock of the database from what `task_attempt` wrote down.

While a drain runs, nobody counts rows: an index is asked now and then for the last tasks of each
org, of which those before must have ended too or are about to.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from psycopg import Connection

from benchmarks.speed.preload import ORGS
from benchmarks.stage import Stage

_LOOK_S = 0.1
_TIMEOUT_S = 300.0


class Drain(NamedTuple):
    """One drain: when its first task was claimed, and when tasks ended, in order, in seconds."""

    claimed_s: float
    ended_s: Sequence[float]

    def rate(self, tasks: int) -> float:
        """Return tasks per second from the first claim until the first `tasks` have ended."""
        return tasks / (self.ended_s[tasks - 1] - self.claimed_s)

    def parts(self, count: int) -> list[float]:
        """Return tasks per second of equal parts of the drain; the first begins with the first end.

        So what a leader and a worker need to get going is in none of them.
        """
        return parts(self.ended_s, count)


def parts(at_s: Sequence[float], count: int) -> list[float]:
    """Return the rate in each of `count` equal parts of a series of instants."""
    size = len(at_s) / count
    edges = [at_s[min(round(part * size), len(at_s) - 1)] for part in range(count + 1)]
    return [size / max(edges[part + 1] - edges[part], 1e-6) for part in range(count)]


def drain(on: Stage, tasks: int, *, whole: bool = True) -> Drain:
    """Start a worker and a replica, wait until the last `tasks` staged of `stage_tasks` have ended.

    With `whole` false more is staged: then wait until the oldest `tasks` have ended, and somewhat
    more, because orgs are not served in exact turns.
    """
    on.start_worker()
    return drain_more(on, tasks, whole=whole)


def drain_more(on: Stage, tasks: int, *, whole: bool = True) -> Drain:
    """Do as `drain` does where the worker runs already, and nothing has been admitted yet."""
    first, last = _staged_ids(on.connection)
    wanted = last if whole else first + tasks + tasks // 2
    on.start_replica()
    _await(on, wanted, tasks)
    return read(on.connection, first)


def read(connection: Connection[Any], first: int) -> Drain:
    """Return what the log of attempts says about the tasks from the id `first` on."""
    rows = connection.execute(_ATTEMPTS, [first]).fetchall()
    return Drain(min(row[0] for row in rows), [row[1] for row in rows])


def refuse_repairs(on: Stage) -> None:
    """Raise if the leader found that counts and rows differ: then the preload was no true one."""
    row = on.connection.execute(
        "select reason from orchestrator.leadership_log where event = 'repaired' limit 1"
    ).fetchone()
    if row is not None:
        raise RuntimeError(f"the leader had to repair: {row[0]}")


def _await(on: Stage, last: int, tasks: int) -> None:
    """Wait until the last task of each org up to the id `last` has ended, then all the others."""
    watched = list(range(last - ORGS + 1, last + 1))
    deadline = time.monotonic() + _TIMEOUT_S
    while _of(on.connection, watched) < len(watched) or on.ended() < tasks:
        if failed := on.processes.failed():
            raise RuntimeError(f"a process ended: {failed[0]}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"{on.ended()} of {tasks} tasks ended in {_TIMEOUT_S:g} s")
        time.sleep(_LOOK_S)


def _of(connection: Connection[Any], ids: Sequence[int]) -> int:
    row = connection.execute(_ENDED, [ids]).fetchone()
    assert row is not None
    return int(row[0])


def _staged_ids(connection: Connection[Any]) -> tuple[int, int]:
    row = connection.execute(
        "select min(task_id), max(task_id) from orchestrator.staging_queue"
    ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


# The lateral keeps it a nested loop over the index: planned while the log was empty, a join read
# all of it at each look, a fifth of what the drain itself took.
_ENDED = """
select count(*) from unnest(%s::bigint[]) as u(id)
 cross join lateral (
   select from orchestrator.task_attempt where task_id = u.id and final offset 0) a
"""
_ATTEMPTS = """
select extract(epoch from claimed_at)::float8, extract(epoch from ended_at)::float8
  from orchestrator.task_attempt where task_id >= %s and final order by ended_at, task_id
"""
