"""What a late call was behind in the order in which the database dispatched: of ours alone.

A handler's start says little about fairness where a worker holds work in a line of its own. So the
finished tasks are asked, after the run, when each was claimed and by which dispatch key; claims
follow the keys, and keys follow admission. With one priority and no task given back, the n-th task
by key is the n-th admission, so that the log of ticks tells which of them were admitted by when.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

import psycopg

# Ticks so close to the call say what the ready window was then.
_AROUND_S = 0.1


class Attempt(NamedTuple):
    """The one attempt of a finished task."""

    org: str
    task_id: int
    claimed_s: float


class Tick(NamedTuple):
    """One tick that did something."""

    at_s: float
    admitted: int
    window: int


class Dispatched(NamedTuple):
    """A run: its attempts in the order of their keys, its ticks in the order of time."""

    attempts: Sequence[Attempt]
    ticks: Sequence[Tick]


class Behind(NamedTuple):
    """The tasks of other orgs that went before the last one of a call, by where they were when
    the call returned.
    """

    # Claimed, not started: in the worker's own line.
    in_line: int
    # Admitted, not claimed.
    ready: int
    # Admitted after, and claimed before the last one of the call.
    after: int
    window: int

    @property
    def claimed(self) -> int:
        """Return how many were claimed between the return of the call and its last task."""
        return self.ready + self.after


def read(dsn: str) -> Dispatched:
    """Return what the database knows of a run that has ended."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        attempts = [Attempt(*row) for row in connection.execute(_ATTEMPTS).fetchall()]
        ticks = [Tick(*row) for row in connection.execute(_TICKS).fetchall()]
    return Dispatched(attempts, ticks)


def behind(run: Dispatched, org: str, call: range, at_s: float, started: int) -> Behind | None:
    """Return what a call that returned at `at_s` was behind; None if not all of it has ended.

    `call` are the places of its tasks among those of its `org` in the order of enqueue; `started`
    tasks of other orgs had been started by then.
    """
    of_org = sorted(attempt.task_id for attempt in run.attempts if attempt.org == org)
    ids = set(of_org[call.start : call.stop])
    if len(ids) < len(call):
        return None
    last = max(place for place, attempt in enumerate(run.attempts) if attempt.task_id in ids)
    admitted = sum(tick.admitted for tick in run.ticks if tick.at_s <= at_s)
    others = [(place, each) for place, each in enumerate(run.attempts) if each.org != org]
    waiting = [place for place, each in others if each.claimed_s > at_s and place < last]
    ready = sum(place < admitted for place in waiting)
    claimed = sum(each.claimed_s <= at_s for _, each in others)
    return Behind(max(0, claimed - started), ready, len(waiting) - ready, _window(run, at_s))


def wall_s(monotonic_ns: int) -> float:
    """Return an instant of CLOCK_MONOTONIC by the clock that the server on this machine reads."""
    return monotonic_ns / 1e9 + time.time() - time.monotonic()


def _window(run: Dispatched, at_s: float) -> int:
    """Return the ready window of the ticks around an instant; of the nearest one if none is."""
    near = [tick.window for tick in run.ticks if abs(tick.at_s - at_s) <= _AROUND_S]
    nearest = min(run.ticks, key=lambda tick: abs(tick.at_s - at_s))
    return round(statistics.median(near or [nearest.window]))


_ATTEMPTS = """
select org_id, task_id, extract(epoch from claimed_at)::float8
  from orchestrator.task_attempt where final order by dispatch_key
"""
_TICKS = """
select extract(epoch from at)::float8, admitted, window_max from orchestrator.tick_log order by at
"""
