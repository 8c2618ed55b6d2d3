"""What payloads cost: the WAL of a whole life beside one bare insert, and the rate of a drain.

A life is enqueue, admission, claim and ack. WAL is the distance between two places in the log, so
it is exact; what would blur it is kept equal on both sides, or away:

- A page that is changed first after a checkpoint is logged as a whole. Both sides begin right after
  a checkpoint (asked for, and waited for) and no other one comes before they end, which is checked.
- Vacuum is off meanwhile. What it logs afterwards is measured apart.
- Payloads are random text, which neither side can compress.
- Both insert as many rows in one transaction, so a commit is shared by as many.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg import Connection

from benchmarks.counters import Counters, Meter
from benchmarks.estimates import Bar, Estimate, median, ratio
from benchmarks.speed.draining import drain_more, refuse_repairs
from benchmarks.speed.preload import ORGS, Bed, bed, filled
from benchmarks.speed.result import OURS, Key, Result
from benchmarks.stage import Stage
from orchestrator.model import TaskSpec

TITLE = "Payloads"
PAIRS = 5
_BAR_SIZE, _BAR = 10_000, 1.3
# Tasks of one enqueue_many, and rows of one bare insert: one transaction each.
_BATCH = 100


class _Size(NamedTuple):
    """So many tasks with payloads of so many bytes."""

    payload_bytes: int
    tasks: int

    @property
    def case(self) -> str:
        return f"{self.payload_bytes:,} B"


SIZES = (_Size(100, 10_000), _Size(_BAR_SIZE, 3_000), _Size(200_000, 300))
_QUICK_PART = 5


class _Pair(NamedTuple):
    """One measurement of ours and of the bare inserts; bytes and images are per task."""

    per_s: float
    wal_bytes: float
    images: float
    vacuum_bytes: float
    bare_wal_bytes: float
    bare_images: float


def measure(quick: bool) -> Result:
    """Take payloads of 100 B, 10 kB and 200 kB through their lives, beside bare inserts."""
    part, pairs = (_QUICK_PART, 2) if quick else (1, PAIRS)
    sizes = [size._replace(tasks=size.tasks // part) for size in SIZES]
    found: dict[_Size, list[_Pair]] = {size: [] for size in sizes}
    with bed(autovacuum="off") as on:
        on.prepare("empty", _fill)
        for number in range(pairs):
            for size in sizes:
                found[size].append(_pair(on, size, _payloads(size, seed=number)))
    bars = [
        Bar(
            "payload: WAL of a life with 10 kB against one bare insert of it",
            ratio([pair.wal_bytes for pair in pairs], [pair.bare_wal_bytes for pair in pairs]),
            _BAR,
        )
        for size, pairs in found.items()
        if size.payload_bytes == _BAR_SIZE
    ]
    return Result("payload", TITLE, _setting(sizes), _measures(found), bars)


def _fill(dsn: str) -> None:
    filled(0)(dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(_CREATE)


def _payloads(size: _Size, seed: int) -> list[dict[str, str]]:
    """Return payloads that are `payload_bytes` long as JSON, and random."""
    dice = random.Random(seed)
    room = size.payload_bytes - len(json.dumps({"text": ""}))
    return [
        {"text": base64.b64encode(dice.randbytes(room * 3 // 4 + 1)).decode()[:room]}
        for _ in range(size.tasks)
    ]


def _pair(on: Bed, size: _Size, payloads: Sequence[dict[str, str]]) -> _Pair:
    tasks = size.tasks
    with on.stage("empty") as stage:
        span = _Span(stage.connection)
        span.begin()
        _insert(stage.connection, [json.dumps(payload) for payload in payloads])
        bare = span.end()
        stage.connection.execute("drop table bare")
        stage.start_worker()
        span.begin()
        _enqueue(stage, payloads)
        drained = drain_more(stage, tasks)
        life = span.end()
        refuse_repairs(stage)
        # Their sessions hand on what they counted; what they log at their end is of no task.
        stage.processes.stop()
        images = span.end().full_page_images
        # No checkpoint before it: it meets pages that are in the log already.
        before = span.meter.read()
        stage.connection.execute("vacuum")
        vacuum = span.meter.since(before)
    return _Pair(
        drained.rate(tasks),
        life.wal_bytes / tasks,
        images / tasks,
        vacuum.wal_bytes / tasks,
        bare.wal_bytes / tasks,
        bare.full_page_images / tasks,
    )


class _Span:
    """What was logged since a checkpoint."""

    def __init__(self, connection: Connection[Any]) -> None:
        self._connection = connection
        self.meter = Meter(connection)

    def begin(self) -> None:
        """Wait for a checkpoint, and count from it on."""
        self._connection.execute("checkpoint")
        self._checkpoint = _checkpoint(self._connection)
        self.meter.flush()
        self._before = self.meter.read()

    def end(self) -> Counters:
        """Return what was added; raise if another checkpoint came meanwhile."""
        self.meter.flush()
        spent = self.meter.since(self._before)
        if _checkpoint(self._connection) != self._checkpoint:
            raise RuntimeError("a checkpoint came between: whole pages were logged twice")
        return spent


def _enqueue(stage: Stage, payloads: Sequence[dict[str, str]]) -> None:
    for first in range(0, len(payloads), _BATCH):
        stage.client.enqueue_many(
            [
                TaskSpec(name="noop", payload=payload, org=f"org{number % ORGS}")
                for number, payload in enumerate(payloads[first : first + _BATCH], first)
            ]
        )


def _checkpoint(connection: Connection[Any]) -> str:
    return str(
        connection.execute("select redo_lsn::text from pg_control_checkpoint()").fetchall()[0][0]
    )


def _insert(connection: Connection[Any], texts: Sequence[str]) -> None:
    for first in range(0, len(texts), _BATCH):
        connection.execute(_INSERT, [list(texts[first : first + _BATCH])])


def _measures(found: Mapping[_Size, Sequence[_Pair]]) -> Mapping[Key, Estimate]:
    measures: dict[Key, Estimate] = {}
    for size, pairs in found.items():
        wal, bare = [p.wal_bytes for p in pairs], [p.bare_wal_bytes for p in pairs]
        for system, metric, values in (
            (OURS, "tasks/s", [p.per_s for p in pairs]),
            (OURS, "WAL bytes/task", wal),
            ("bare insert", "WAL bytes/task", bare),
            (OURS, "full-page images/task", [p.images for p in pairs]),
            ("bare insert", "full-page images/task", [p.bare_images for p in pairs]),
            (OURS, "WAL bytes/task of a vacuum afterwards", [p.vacuum_bytes for p in pairs]),
        ):
            measures[Key(size.case, system, metric)] = median(values)
        measures[Key(size.case, OURS, "WAL against a bare insert")] = ratio(wal, bare)
        added = [mine - other for mine, other in zip(wal, bare, strict=True)]
        measures[Key(size.case, OURS, "WAL bytes/task above a bare insert")] = median(added)
    return measures


def _setting(sizes: Sequence[_Size]) -> str:
    counts = ", ".join(f"{size.tasks:,} tasks of {size.case}" for size in sizes)
    return (
        f"{counts}: random text, enqueued {_BATCH} at a time, admitted, claimed and acknowledged"
        " by one replica and one worker process, beside inserts of the same payloads, as many at"
        " a time, into a table of a jsonb and a primary key. Each begins right after a checkpoint"
        " in a database of its own; autovacuum is off, its work is measured apart afterwards."
        " The rate is from the first claim to the last end."
    )


_CREATE = """
create table bare (id bigint generated always as identity primary key, payload jsonb not null)
"""
_INSERT = """
insert into bare (payload) select u.payload::jsonb from unnest(%s::text[]) as u(payload)
"""
