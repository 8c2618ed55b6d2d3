"""How fast staged work is admitted, claimed, handled and acked, beside a queue without admission.

The floor, *raw*, is a hand-written at-least-once queue: one table, a partial index, a lease of a
batch in one statement, a delete as ack. It knows no orgs, so it does no admission at all.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from benchmarks.stage import SETTINGS, Stage, stage, wait_for
from orchestrator.embedded import throwaway
from orchestrator.model import TaskSpec

TASKS = 50_000
ORGS = 20
PAIRS = 5
_RAW_BATCH = 500


def run(quick: bool) -> dict[str, object]:
    """Return tasks per second of both, interleaved, and the median ratio."""
    tasks, pairs = (TASKS // 5, 2) if quick else (TASKS, PAIRS)
    ours: list[float] = []
    raw: list[float] = []
    for _ in range(pairs):
        ours.append(_ours(tasks))
        raw.append(_raw(tasks))
    ratios = sorted(mine / floor for mine, floor in zip(ours, raw, strict=True))
    return {
        "tasks": tasks,
        "pairs": pairs,
        "ours_tasks_per_s": [round(rate) for rate in ours],
        "raw_tasks_per_s": [round(rate) for rate in raw],
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_range": [round(ratios[0], 3), round(ratios[-1], 3)],
    }


def _ours(tasks: int) -> float:
    with stage() as on:
        on.client.enqueue_many(
            [TaskSpec(name="noop", org=f"org{number % ORGS}") for number in range(tasks)]
        )
        on.start_worker()
        on.start_replica()
        wait_for(lambda: on.ended() > 0, "the first task")
        return _rate(on, tasks)


def _rate(on: Stage, tasks: int) -> float:
    """Return tasks per second between the first and the last end, by the database's clock."""
    wait_for(lambda: on.ended() >= tasks, "the end", 300)
    row = on.connection.execute(
        "select extract(epoch from max(ended_at) - min(claimed_at))::float8"
        " from orchestrator.task_attempt"
    ).fetchone()
    assert row is not None
    return tasks / float(row[0])


@contextmanager
def _raw_server() -> Iterator[psycopg.Connection[Any]]:
    with (
        throwaway(settings=SETTINGS) as dsn,
        psycopg.connect(dsn, autocommit=True, prepare_threshold=1) as connection,
    ):
        yield connection


def _raw(tasks: int) -> float:
    with _raw_server() as connection:
        connection.execute(
            "create table job (id bigint generated always as identity primary key,"
            " payload jsonb not null, lease_until timestamptz)"
        )
        connection.execute("create index job_free on job (id) where lease_until is null")
        connection.execute(
            "insert into job (payload) select '{}' from generate_series(1, %s)", [tasks]
        )
        started = time.perf_counter()
        done = 0
        while done < tasks:
            rows = connection.execute(_RAW_LEASE, [_RAW_BATCH], binary=True).fetchall()
            connection.execute("delete from job where id = any (%s)", [[row[0] for row in rows]])
            done += len(rows)
        return tasks / (time.perf_counter() - started)


_RAW_LEASE = """
with free as materialized (
  select id from job where lease_until is null order by id limit %s for update skip locked
)
update job j set lease_until = clock_timestamp() + interval '30 seconds'
  from free where j.id = free.id
returning j.id, j.payload
"""
