"""Whether a long transaction, which keeps vacuum from its work, slows a drain down."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import psycopg

from benchmarks.counters import Meter
from benchmarks.estimates import Bar, Estimate, median
from benchmarks.peers.peer import PeerFailed
from benchmarks.peers.registry import RAW
from benchmarks.speed.draining import Drain, drain, parts, refuse_repairs
from benchmarks.speed.plain import PLAIN_RAW, plain_filled, work
from benchmarks.speed.preload import Bed, bed, filled
from benchmarks.speed.result import OURS, Key, Result
from benchmarks.stage import Stage

TITLE = "A snapshot held by another session"
TASKS, RUNS = 200_000, 5
# Enough to see where it goes.
RAW_TASKS, RAW_RUNS = 100_000, 3
_QUICK_TASKS = 20_000
DECILES = 10
HELD, FREE = "snapshot held", "no snapshot held"
RATE = "tasks/s"
_BAR = 0.9
_RAW_PATIENCE_S = 30.0


class _Run(NamedTuple):
    """One drain: tasks per second, and microseconds of a tick (of ours), by decile."""

    rates: Sequence[float]
    # None where no tick lay in it.
    ticks_us: Sequence[float | None] = ()
    dead: Mapping[str, int] | None = None

    @property
    def last_against_first(self) -> float:
        return self.rates[-1] / self.rates[0]


def measure(quick: bool) -> Result:
    """Drain while another session holds a snapshot; ours, ours without one, and raw."""
    tasks, raw_tasks = (_QUICK_TASKS, _QUICK_TASKS) if quick else (TASKS, RAW_TASKS)
    ours: list[_Run] = []
    free: list[_Run] = []
    raw: list[_Run] = []
    notes: list[str] = []
    with bed() as on:
        on.prepare("ours", filled(tasks))
        on.prepare("raw", plain_filled(PLAIN_RAW, raw_tasks))
        for number in range(1 if quick else RUNS):
            ours.append(_ours(on, tasks, held=True))
            if number < (1 if quick else RAW_RUNS):
                free.append(_ours(on, tasks, held=False))
                _raw(on, raw_tasks, raw, notes)
    ratio = median([run.last_against_first for run in ours])
    bar = Bar("xmin: rate of the last decile against the first", ratio, _BAR, at_least=True)
    measures = {
        **_measures(HELD, OURS, ours),
        **_measures(FREE, OURS, free),
        **_measures(HELD, RAW.name, raw),
    }
    return Result("xmin", TITLE, _setting(tasks, raw_tasks), measures, [bar], notes)


@contextmanager
def _snapshot(dsn: str) -> Iterator[None]:
    """Hold a snapshot of this moment: what is deleted from now on must be kept for it."""
    with psycopg.connect(dsn) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("select pg_current_snapshot()")
        yield


def _ours(on: Bed, tasks: int, *, held: bool) -> _Run:
    with on.stage("ours") as stage, _snapshot(stage.dsn) if held else nullcontext():
        return _drained(stage, tasks)


def _drained(stage: Stage, tasks: int) -> _Run:
    drained = drain(stage, tasks)
    refuse_repairs(stage)
    ticks_us = _ticks_us(stage, drained)
    stage.processes.stop()  # their sessions hand on what they counted
    dead = {
        table: Meter(stage.connection, tables=[f"orchestrator.{table}"]).read().dead_tuples
        for table in ("staging_queue", "task_queue")
    }
    return _Run(drained.parts(DECILES), ticks_us, dead)


def _ticks_us(stage: Stage, drained: Drain) -> list[float | None]:
    """Return the time of the ticks of each decile, for each hundred admissions of them."""
    edges = [
        drained.ended_s[(part + 1) * len(drained.ended_s) // DECILES - 1] for part in range(DECILES)
    ]
    took_us, admitted = [0.0] * DECILES, [0] * DECILES
    for at_s, tick_us, tasks in stage.connection.execute(_TICKS).fetchall():
        part = min(bisect_right(edges, at_s), DECILES - 1)
        took_us[part] += tick_us
        admitted[part] += tasks
    return [
        100 * micros / count if count else None
        for micros, count in zip(took_us, admitted, strict=True)
    ]


def _raw(on: Bed, tasks: int, runs: list[_Run], notes: list[str]) -> None:
    """Add one run of raw; a failure is noted instead."""
    try:
        with on.copy("raw") as dsn, _snapshot(dsn):
            worked = work(PLAIN_RAW, dsn, tasks, patience_s=_RAW_PATIENCE_S, trace=True)
    except PeerFailed as error:
        notes.append(f"a run of raw is left out: {error}")
        return
    if len(worked.starts_ns) < tasks:
        notes.append(
            f"raw handled {len(worked.starts_ns):,} of {tasks:,} tasks in {_RAW_PATIENCE_S:g} s;"
            " its deciles are of those"
        )
    runs.append(_Run(parts([at_ns / 1e9 for at_ns in worked.starts_ns], DECILES)))


def _measures(case: str, system: str, runs: Sequence[_Run]) -> dict[Key, Estimate]:
    """Return the median over the runs of everything they tell."""
    if not runs:
        return {}
    measures = {
        Key(case, system, "last decile against first"): median(
            [run.last_against_first for run in runs]
        )
    }
    for decile in range(DECILES):
        of = decile_case(case, decile + 1)
        measures[Key(of, system, RATE)] = median([run.rates[decile] for run in runs])
        ticks_us = [us for run in runs for us in run.ticks_us[decile : decile + 1] if us]
        if ticks_us:
            measures[Key(of, system, "tick, us per 100 admissions")] = median(ticks_us)
    for table in runs[0].dead or ():
        dead = [float((run.dead or {})[table]) for run in runs]
        measures[Key(case, system, f"dead rows of {table} at the end")] = median(dead)
    return measures


def decile_case(case: str, decile: int) -> str:
    """Return the name of one tenth of a case; 1 is the first."""
    return f"{case}, decile {decile}"


def _setting(tasks: int, raw_tasks: int) -> str:
    return (
        f"{tasks:,} no-op tasks of 20 orgs drained by one worker process while another session"
        f" holds a REPEATABLE READ snapshot; raw with {raw_tasks:,} (batches of 500). Rates of"
        " tenths of the tasks by their ends, by the clock of the database (by the starts of"
        " handlers for raw); the first tenth begins with the first end. Each run in a database of"
        " its own, copied from one that was filled once, vacuumed and analysed; medians of runs."
    )


_TICKS = """
select extract(epoch from at)::float8, tick_us, admitted from orchestrator.tick_log
"""
