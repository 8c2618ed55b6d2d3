"""Handlers that take more than their share: memory, and the interpreter itself."""

from __future__ import annotations

import os

import pytest

from tests.support import worker_handlers
from tests.support.stage import Stage
from tests.support.waiting import PATIENCE_S, until
from tests.support.worker import (
    enqueue,
    history,
    process,
    until_ended,
    until_no_lease,
    working,
)

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("replica")]

# Work until told to go, with leases as short as they may be.
WORK = """
import signal, sys
from orchestrator.worker.worker import Worker
from tests.support.worker import settings
from tests.support.worker_handlers import app
worker = Worker(app, sys.argv[1], settings(lease_s=1), concurrency=2)
signal.signal(signal.SIGTERM, lambda *_: worker.stop())
worker.run()
print("drained")
"""


@pytest.fixture(autouse=True)
def _mark(stage: Stage) -> None:
    stage.do("create table mark (task_id bigint, attempt integer, pid integer, note text)")


def test_a_handler_that_eats_memory_fails_alone(stage: Stage) -> None:
    payload = {"dsn": stage.dsn}
    bad = enqueue(stage, "eat memory", 2, payload=payload, timeout_s=60, max_attempts=1)
    good = enqueue(stage, "mark", 10, payload=payload, timeout_s=60)
    with working(worker_handlers.app, stage.dsn, concurrency=2):
        *eaters, second = until_ended(stage, bad)
        others = until_ended(stage, good)
        # The worker lives, and so does what runs in itself.
        ((here,),) = until_ended(stage, enqueue(stage, "mark", payload=payload))
    for (line,) in [*eaters, second]:
        assert line.status == "dead"
        assert line.error is not None
        assert line.error.startswith("MemoryError")
    assert [[line.status for line in lines] for lines in others] == [["succeeded"]] * 10
    assert here.status == "succeeded"
    assert os.getpid() in [pid for (pid,) in stage.rows("select pid from mark")]


def test_a_handler_that_is_killed_for_its_memory_fails_alone(stage: Stage) -> None:
    payload = {"dsn": stage.dsn}
    (bad,) = enqueue(stage, "be killed for memory", timeout_s=60, max_attempts=2)
    good = enqueue(stage, "mark", 10, payload=payload, timeout_s=60)
    with working(worker_handlers.app, stage.dsn, concurrency=2):
        lines, *others = until_ended(stage, [bad, *good])
    assert [(line.attempt, line.status) for line in lines] == [(1, "failed"), (2, "dead")]
    assert {line.error for line in lines} == {"its process ended: killed by SIGKILL"}
    assert [[line.status for line in lines] for lines in others] == [["succeeded"]] * 10


def test_a_handler_with_a_timeout_that_holds_the_interpreter_costs_no_lease(stage: Stage) -> None:
    payload = {"dsn": stage.dsn}
    (bad,) = enqueue(stage, "hold", payload=payload, timeout_s=2.5, max_attempts=1)
    good = enqueue(stage, "mark", 10, payload=payload, timeout_s=60)
    # The lease is over twice before the attempt is.
    with process(WORK, stage.dsn) as worker:
        ((line,), *others) = until_ended(stage, [bad, *good])
        assert worker.poll() is None
    assert (line.status, line.error) == ("dead", "timed out after 2.5 s")
    assert [[line.status for line in lines] for lines in others] == [["succeeded"]] * 10


def test_a_worker_whose_interpreter_is_held_beyond_its_leases_loses_them_and_works_on(
    stage: Stage,
) -> None:
    payload = {"dsn": stage.dsn}
    (bad,) = enqueue(stage, "hold once", payload=payload | {"hold_s": 3})
    good = enqueue(stage, "mark", 10, payload=payload)
    with process(WORK, stage.dsn) as worker:
        until(lambda: stage.one("select count(*) from mark where note = 'holds'"), "it is held")
        lines, *others = until_ended(stage, [bad, *good])
        # Once it runs again, what it says of the lost lease counts for nothing, and it works on.
        ((last,),) = until_ended(stage, enqueue(stage, "mark", payload=payload))
        worker.terminate()
        said, _ = worker.communicate(timeout=PATIENCE_S)
    assert worker.returncode == 0
    assert "drained" in said
    assert [(line.attempt, line.status) for line in lines] == [(1, "lost"), (2, "succeeded")]
    assert all([line.final for line in each].count(True) == 1 for each in others)
    assert all(each[-1].status == "succeeded" for each in others)
    assert last.status == "succeeded"
    assert [line.final for line in history(stage, bad)] == [False, True]
    until_no_lease(stage)
