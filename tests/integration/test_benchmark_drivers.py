"""Drivers of the benchmarks from end to end: queues written by hand, and the product itself."""

import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from benchmarks.peers.peer import (
    Load,
    Peer,
    Work,
    enqueue,
    enqueueing,
    pending,
    setup,
    version,
    working,
)
from benchmarks.peers.registry import OURS, RAW, SEED_SHAPE, STAGED
from orchestrator.embedded import throwaway
from tests.conftest import roomy_memory

TASKS, MANY, ORGS = 200, 2_500, 4
PATIENCE_S = 60.0
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
# Where a task of staged may be, and whether its attempt is logged.
LIVES = """
select staged.task_id is not null, job.id is not null,
       (select count(*) from attempt where task_id = task.id)
  from task
  left join staged on staged.task_id = task.id
  left join job on job.id = task.id
"""
own = pytest.mark.parametrize("peer", [RAW, STAGED, SEED_SHAPE, OURS], ids=lambda peer: peer.name)


@own
def test_every_task_is_handled_once_and_traced(peer: Peer, tmp_path: Path) -> None:
    with (
        throwaway(settings=FAST, parent=roomy_memory()) as dsn,
        working(peer, dsn, tmp_path) as workers,
    ):
        setup(peer, dsn)
        half = TASKS // 2
        assert enqueue(peer, dsn, Load(half, ORGS, clients=2)) > 0
        assert enqueue(peer, dsn, Load(half, org="late", bulk=True, pad=50)) > 0
        assert pending(peer, dsn) == TASKS
        workers.start(
            Work(fast=True, trace=True, batch=50, linger_ms=1 if peer is OURS else 0), processes=2
        )
        assert workers.wait(TASKS, PATIENCE_S)
        workers.stop()
        assert pending(peer, dsn) == 0
        starts = workers.starts()
    expected = [(f"org{n % ORGS}", n) for n in range(half)] + [("late", n) for n in range(half)]
    assert sorted((start.org, start.n) for start in starts) == sorted(expected)
    assert all(start.sent_ns < start.started_ns for start in starts)
    assert workers.rate.per_s > 0


def test_a_driver_with_a_schedule_tells_when_each_call_returned() -> None:
    load = Load(TASKS, clients=2, bulk=True, batch=TASKS // 4, gap_ms=20)
    with throwaway(settings=FAST, parent=roomy_memory()) as dsn:
        setup(RAW, dsn)
        began_ns = time.monotonic_ns()
        with enqueueing(RAW, dsn, load) as finish:
            returned_ns = finish(PATIENCE_S)
        ended_ns = time.monotonic_ns()
        assert pending(RAW, dsn) == TASKS
    assert len(returned_ns) == 4
    assert began_ns < returned_ns[0] < returned_ns[-1] < ended_ns


def test_staged_hands_nothing_to_workers_but_what_its_mover_moved(tmp_path: Path) -> None:
    with (
        throwaway(settings=FAST, parent=roomy_memory()) as dsn,
        working(STAGED, dsn, tmp_path) as workers,
        psycopg.connect(dsn, autocommit=True) as connection,
    ):
        setup(STAGED, dsn)
        enqueue(STAGED, dsn, Load(TASKS, ORGS, bulk=True))
        # More than it moves at once, and none of it that a worker could lease.
        workers.start(Work(), lead=False)
        enqueue(STAGED, dsn, Load(MANY, ORGS, bulk=True))
        assert connection.execute(LIVES).fetchall() == [(True, False, 0)] * (TASKS + MANY)
        assert workers.handled == 0
        workers.lead()
        assert workers.wait(TASKS + MANY, PATIENCE_S)
        workers.stop()
        assert workers.handled == TASKS + MANY
        assert connection.execute(LIVES).fetchall() == [(False, False, 1)] * (TASKS + MANY)


@pytest.mark.parametrize("bulk", [False, True], ids=["one by one", "in bulk"])
def test_whoever_enqueues_into_staged_notifies_its_mover_once_there_is_one(
    bulk: bool, tmp_path: Path
) -> None:
    with (
        throwaway(settings=FAST, parent=roomy_memory()) as dsn,
        working(STAGED, dsn, tmp_path) as workers,
        psycopg.connect(dsn, autocommit=True) as connection,
    ):
        setup(STAGED, dsn)
        connection.execute("listen staged")
        connection.execute("listen ready")
        load = Load(1, bulk=bulk)
        enqueue(STAGED, dsn, load)
        connection.execute("notify staged, 'nobody listened until here'")
        workers.start(Work())
        assert workers.wait(1, PATIENCE_S)
        enqueue(STAGED, dsn, load)
        assert workers.wait(2, PATIENCE_S)
        workers.stop()
        connection.execute("notify ready, 'the end'")
        heard = [(notice.channel, notice.payload) for notice in _until(connection, "the end")]
    assert heard == [
        ("staged", "nobody listened until here"),
        ("ready", ""),
        ("staged", ""),
        ("ready", ""),
        ("ready", "the end"),
    ]


def _until(connection: psycopg.Connection, last: str) -> Iterator[psycopg.Notify]:
    for notice in connection.notifies(timeout=PATIENCE_S):
        yield notice
        if notice.payload == last:
            return


@own
def test_a_driver_tells_what_it_is(peer: Peer) -> None:
    assert any(character.isdigit() for character in version(peer))
