"""`burst`: no-op tasks drained by workers with 4, 16, 64 and 256 connections in all.

A worker process has four sessions: fetcher, acks, heartbeat and listener. Before anything is
measured the new processes hold tasks until each has sent a heartbeat, so that all are open.

The last count is held against half of the best rate; the note of the result says why.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import LiteralString

from benchmarks.estimates import Bar, exact, median, ratio
from benchmarks.load import stage_tasks
from benchmarks.speed.holding import stage_holding, start_workers
from benchmarks.speed.result import OURS, Key, Result
from benchmarks.stage import Stage, stage, wait_for

SESSIONS = 4
CONNECTIONS = (4, 16, 64, 256)
QUICK_CONNECTIONS = (4, 32)
CONCURRENCY = 10
TASKS, QUICK_TASKS = 40_000, 5_000
# Twice so many at each count but the last, which is measured as often at a stretch.
ROUNDS, QUICK_ROUNDS = 3, 1
ORGS = 20
NO_COLLAPSE = 0.5
SETTINGS = {"max_connections": "400"}
# A third of it is the time between heartbeats.
_LEASE_S = 12.0
_HOLD_S = 5.0
# Processes that start at the same time: each takes a processor for about a second.
_AT_ONCE = 4
_PATIENCE_S = 120.0
_POLL_S = 0.1


def measure(quick: bool) -> Result:
    """Return the rate at each number of connections, and the bar on the last."""
    connections = QUICK_CONNECTIONS if quick else CONNECTIONS
    tasks, rounds = (QUICK_TASKS, QUICK_ROUNDS) if quick else (TASKS, ROUNDS)
    with stage(SETTINGS) as on, _config() as config:
        on.start_replica()
        crew = _Crew(on, config)
        rates: dict[int, list[float]] = {count: [] for count in connections}
        opened: dict[int, int] = {}
        # Up and down again: what grows with time meets all counts alike.
        for count in (*connections, *reversed(connections)):
            crew.become(count // SESSIONS)
            opened[count] = _one(on, _SESSIONS)
            rates[count] += [_rate(on, tasks) for _ in range(rounds)]
    return _result(rates, opened, tasks)


class _Crew:
    """The worker processes that there are now."""

    def __init__(self, on: Stage, config: Path) -> None:
        self._on = on
        self._config = config
        self._pids: list[int] = []

    def become(self, count: int) -> None:
        """Start or kill processes until there are `count`, and wait until all are connected."""
        while len(self._pids) > count:
            # It holds nothing: everything has ended.
            self._on.processes.kill(self._pids.pop())
        if len(self._pids) < count:
            self._grow(count)
        wait_for(lambda: self._on.parked() == count * CONCURRENCY, "the workers to park")

    def _grow(self, count: int) -> None:
        while len(self._pids) < count:
            starting = min(_AT_ONCE, count - len(self._pids))
            self._pids += start_workers(
                self._on, starting, "--config", str(self._config), concurrency=CONCURRENCY
            )
        stage_holding(self._on, count * CONCURRENCY, ORGS, _HOLD_S)
        _await_end(self._on)


@contextmanager
def _config() -> Iterator[Path]:
    """Yield a settings file for workers whose heartbeats come soon."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "worker.toml"
        file.write_text(f"[worker]\nlease_s = {_LEASE_S}\n")
        yield file


def _rate(on: Stage, tasks: int) -> float:
    """Stage tasks at once; return how many a second ended, from the first claim to the last end."""
    last = _one(on, _LAST_ID)
    stage_tasks(on.connection, tasks, ORGS)
    _await_end(on)
    took = on.connection.execute(_TOOK, [last]).fetchone()
    assert took is not None
    ended, seconds = took
    return float(ended) / float(seconds)


def _await_end(on: Stage) -> None:
    """Wait until everything that was staged has ended; until it is admitted, look at one row."""
    wanted = _one(on, _LAST_ID)
    deadline = time.monotonic() + _PATIENCE_S
    while _one(on, _ADMITTED) < wanted or _one(on, _ANYTHING):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the tasks did not end within {_PATIENCE_S:.0f} s")
        time.sleep(_POLL_S)


def _one(on: Stage, query: LiteralString) -> int:
    row = on.connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def _result(rates: Mapping[int, Sequence[float]], opened: Mapping[int, int], tasks: int) -> Result:
    measures = {}
    for count, found in rates.items():
        case = f"{count} connections"
        measures[Key(case, OURS, "tasks/s")] = median(found)
        measures[Key(case, OURS, "processes")] = exact(count // SESSIONS)
        measures[Key(case, OURS, "sessions seen")] = exact(opened[count])
    last = max(rates)
    best = max(rates, key=lambda count: statistics.median(rates[count]))
    kept = ratio(rates[last], rates[best])
    measures[Key(f"{last} connections against {best}", OURS, "tasks/s, ratio")] = kept
    name = f"rate with {last} connections, part of the best (with {best})"
    bars = [Bar(name, kept, NO_COLLAPSE, at_least=True)]
    title = "Workers with 4 to 256 connections"
    return Result("burst", title, _setting(tasks, len(rates[last])), measures, bars, _NOTES)


def _setting(tasks: int, rounds: int) -> str:
    return (
        f"Worker processes of the command line with {SESSIONS} sessions each, concurrency"
        f" {CONCURRENCY}, and one replica; {tasks:,} no-op tasks of {ORGS} orgs staged in one"
        " transaction while all are parked; from the first claim to the last end, by the database's"
        f" clock; {rounds} times at each count, half of them while the number grows and half while"
        f" it shrinks again; max_connections {SETTINGS['max_connections']}, leases of"
        f" {_LEASE_S:.0f} s so that heartbeats have begun, all else default"
    )


_NOTES = (
    "A collapse looks otherwise than a bar that is missed by little: sessions that wait for each"
    " other or walk over each other's rows do the more in vain the more there are, so that each"
    " four times as many bring half the rate or less, and the last a tenth of the best. Half is"
    " asked for, because 64 processes on few cores cost context switches and smaller batches"
    " without any of that.",
)
_LAST_ID: LiteralString = "select last_value from orchestrator.task_id"
_ADMITTED: LiteralString = "select admit_seq from orchestrator.queue_state where queue = 1"
# What was given back is admitted more than once, so that the count alone may come too early.
_ANYTHING: LiteralString = """
select (exists (select from orchestrator.staging_queue)
        or exists (select from orchestrator.task_queue))::integer
"""
_TOOK = """
select count(*), extract(epoch from max(ended_at) - min(claimed_at))::float8
  from orchestrator.task_attempt where task_id > %s and final
"""
_SESSIONS: LiteralString = """
select count(*) from pg_stat_activity
 where application_name similar to 'orchestrator (worker|fetcher|acks|heartbeat) %'
"""
