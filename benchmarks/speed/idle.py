"""`idle`: what a queue without work costs: statements, WAL, processor time of server and client.

All statements of the server are counted by pg_stat_statements where the server has it, else the
commits of the database stand for them. The WAL that our sessions caused is what the server says of
each of them (PostgreSQL 18); before, it is all WAL that was written.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from psycopg import Connection

from benchmarks.counters import (
    STATEMENTS_SETTINGS,
    Counters,
    Meter,
    Statement,
    cpu_s,
    enable_statements,
    forget_statements,
    statements,
)
from benchmarks.estimates import Bar, exact
from benchmarks.load import settle, stage_tasks
from benchmarks.speed.holding import start_workers
from benchmarks.speed.result import OURS, Key, Result
from benchmarks.stage import Stage, stage, wait_for

SPAN_S, QUICK_SPAN_S = 60.0, 20.0
CONCURRENCY = 10
TASKS = 100
STATEMENTS_BAR_PER_S = 5.0
CPU_BAR = 0.01
# The leader dozes a second after the last work; what a session counted reaches the statistics when
# it has been idle for 10 s. The full rest is longer than any interval but that of retention: what
# is done for the first time after a checkpoint writes whole pages for hint bits.
_REST_S, _QUICK_REST_S = 35.0, 14.0
_MOST_STATEMENTS = 50
_SESSION_WAL_SINCE = 180000


class Stretch(NamedTuple):
    """What an idle stretch cost: in all, by statement, of which process, by whose WAL."""

    seconds: float
    cost: Counters
    statements: Sequence[Statement]
    processes_cpu_s: Mapping[str, float]
    # By the name of the session; None where the server does not tell.
    sessions_wal: Mapping[str, int] | None


def measure(quick: bool) -> Result:
    """Return what two replicas and a worker cost while there is nothing to do, and the bars."""
    with stage(STATEMENTS_SETTINGS) as on:
        counted = enable_statements(on.connection)
        pids = _start(on, _QUICK_REST_S if quick else _REST_S)
        stretch = _watch(on, pids, QUICK_SPAN_S if quick else SPAN_S, counted=counted)
    minutes = stretch.seconds / 60
    cost = stretch.cost
    told = stretch.sessions_wal
    ours_wal = cost.wal_bytes if told is None else sum(told.values())
    calls = cost.commits if cost.statements is None else cost.statements
    per_s = calls / stretch.seconds
    server_s = cost.server_cpu_s or 0.0
    client_s = sum(stretch.processes_cpu_s.values())
    part = (server_s + client_s) / stretch.seconds
    values = {
        ("all", "statements/s"): per_s,
        ("all", "statements/min"): calls / minutes,
        ("all", "transactions/min"): cost.commits / minutes,
        ("our sessions", "WAL, bytes/min"): ours_wal / minutes,
        ("the whole server", "WAL, bytes/min"): cost.wal_bytes / minutes,
        ("server", "processor, ms/min"): server_s * 1e3 / minutes,
        ("client", "processor, ms/min"): client_s * 1e3 / minutes,
        ("all", "processor, part of a core"): part,
        **{
            (name, "processor, ms/min"): used * 1e3 / minutes
            for name, used in stretch.processes_cpu_s.items()
        },
    }
    bars = [
        Bar("WAL of our sessions, bytes", exact(ours_wal), 0.0),
        Bar("statements a second, in all", exact(per_s), STATEMENTS_BAR_PER_S),
        Bar("processor of server and client, part of a core", exact(part), CPU_BAR),
    ]
    measures = {Key(case, OURS, metric): exact(value) for (case, metric), value in values.items()}
    setting = _setting(stretch, _QUICK_REST_S if quick else _REST_S, counted=counted)
    return Result("idle", "A queue without work", setting, measures, bars, _notes(stretch))


def _start(on: Stage, rest_s: float) -> dict[str, int]:
    """Start two replicas and a worker, let them work once, and wait until nothing moves."""
    leader = on.start_replica()
    stage_tasks(on.connection, TASKS, 10)
    (worker,) = start_workers(on, 1, concurrency=CONCURRENCY)
    wait_for(lambda: on.ended() >= TASKS, "the first tasks")
    standing = on.start_replica()
    wait_for(lambda: _replicas(on.connection) == 2, "the second replica")
    settle(on.connection)
    # Once more, for the statistics that the first one wrote.
    on.connection.execute("vacuum")
    on.connection.execute("checkpoint")
    time.sleep(rest_s)
    return {"leader": leader, "standing by": standing, "worker": worker}


def _watch(on: Stage, pids: Mapping[str, int], span_s: float, *, counted: bool) -> Stretch:
    """Sleep, and return what the stretch cost."""
    meter = Meter(on.connection, pids=list(pids.values()))
    if counted:
        forget_statements(on.connection)
    wal_before = _sessions_wal(on.connection)
    cpu_before = {name: cpu_s(pid) or 0.0 for name, pid in pids.items()}
    before, began = meter.read(), time.monotonic()
    time.sleep(span_s)
    cost, seconds = meter.since(before), time.monotonic() - began
    used = {name: (cpu_s(pid) or 0.0) - cpu_before[name] for name, pid in pids.items()}
    asked = statements(on.connection, _MOST_STATEMENTS) if counted else []
    wal = None
    if wal_before is not None and (wal_after := _sessions_wal(on.connection)) is not None:
        wal = {
            f"{name} ({pid})": found - wal_before.get((pid, name), 0)
            for (pid, name), found in wal_after.items()
        }
    return Stretch(seconds, cost, [one for one in asked if _is_ours(one)], used, wal)


def _is_ours(asked: Statement) -> bool:
    return "pg_stat_statements_reset" not in asked.query


def _sessions_wal(connection: Connection[Any]) -> dict[tuple[int, str], int] | None:
    """Return the WAL bytes by pid and name of our sessions; None where the server does not
    tell.
    """
    if connection.info.server_version < _SESSION_WAL_SINCE:
        return None
    rows = connection.execute(_SESSIONS_WAL).fetchall()
    return {(pid, name): int(wal) for pid, name, wal in rows}


def _replicas(connection: Connection[Any]) -> int:
    row = connection.execute(_REPLICAS).fetchone()
    assert row is not None
    return int(row[0])


def _setting(stretch: Stretch, rest_s: float, *, counted: bool) -> str:
    how = (
        "statements by pg_stat_statements, transaction commands included"
        if counted
        else "transactions of pg_stat_database in place of statements: no pg_stat_statements here"
    )
    return (
        f"One queue, two replicas and a worker process of concurrency {CONCURRENCY}, all with the"
        f" default settings; after {TASKS} tasks and {rest_s:.0f} s of rest, over"
        f" {stretch.seconds:.0f} s; {how}; WAL of our sessions as the server counts it for each, or"
        " all there was; processor time from /proc, of all processes of the server and of ours"
    )


def _notes(stretch: Stretch) -> list[str]:
    often = sorted(stretch.statements, key=lambda one: -one.calls)
    notes = [
        f"{one.calls / stretch.seconds:.2f}/s, {one.total_ms / one.calls:.2f} ms each,"
        f" {one.wal_bytes} B of WAL: {_short(one.query)}"
        for one in often
        if one.calls
    ]
    notes += [
        f"{wal:,} B of WAL: {name}" for name, wal in (stretch.sessions_wal or {}).items() if wal
    ]
    if stretch.cost.wal_bytes:
        notes.append(
            f"The whole server wrote {stretch.cost.wal_bytes:,} B of WAL meanwhile. What our"
            " sessions did not write is its own: autovacuum, checkpoints, and the list of running"
            " transactions that it logs at most every 15 s after something was written."
        )
    return notes


def _short(query: str) -> str:
    lines = [line for line in query.splitlines() if not line.lstrip().startswith("--")]
    text = " ".join(" ".join(lines).split())
    return text if len(text) <= 100 else f"{text[:97]}..."


_SESSIONS_WAL = """
select /* meter */ a.pid, a.application_name, coalesce(w.wal_bytes, 0)
  from pg_stat_activity a cross join lateral pg_stat_get_backend_wal(a.pid) w
 where a.backend_type = 'client backend' and a.datname = current_database()
   and a.pid <> pg_backend_pid()
"""
_REPLICAS = """
select count(distinct application_name) from pg_stat_activity
 where application_name like 'orchestrator leader %'
"""
