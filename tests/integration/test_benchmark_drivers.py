"""Drivers of the benchmarks from end to end: queues written by hand, and the product itself."""

import time
from pathlib import Path

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
from benchmarks.peers.registry import OURS, RAW, SEED_SHAPE
from orchestrator.embedded import throwaway
from tests.conftest import roomy_memory

TASKS, ORGS = 200, 4
PATIENCE_S = 60.0
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@pytest.mark.parametrize("peer", [RAW, SEED_SHAPE, OURS], ids=lambda peer: peer.name)
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


@pytest.mark.parametrize("peer", [RAW, SEED_SHAPE, OURS], ids=lambda peer: peer.name)
def test_a_driver_tells_what_it_is(peer: Peer) -> None:
    assert any(character.isdigit() for character in version(peer))
