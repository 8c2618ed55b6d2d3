"""What an attempt costs: the worker time it took, as the database's clock bounds what is said."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import NamedTuple

import pytest

from orchestrator import Client
from orchestrator.model import AttemptStatus, Claim
from orchestrator.store import batch, queue, tasks
from orchestrator.store.queue import Ending
from orchestrator.store.sql import run
from orchestrator.worker.app import App, Task
from tests.support import worker_handlers
from tests.support.ready import put_ready
from tests.support.stage import Stage
from tests.support.stepping import cancel, claim, reap
from tests.support.waiting import until
from tests.support.worker import until_ended, until_logged, working

SECOND_US = 1_000_000
# Longer than any test takes, so that it can be told from the time since a claim.
LONG_AGO_S = 1_000


class Line(NamedTuple):
    """What the log says of the charge and the cost of an attempt."""

    status: str
    cost_us: int
    charged_us: int
    weight: int
    share: int
    reserved: bool


def lines(stage: Stage) -> list[Line]:
    rows = stage.rows(
        "select status, cost_us, charged_us, weight, share, reserved"
        " from orchestrator.task_attempt order by ended_at, task_id"
    )
    return [Line(*row) for row in rows]


def claimed(stage: Stage, *, ago_s: float = LONG_AGO_S) -> Claim:
    """Return a task that was claimed so many seconds ago, in the reserve and charged."""
    put_ready(stage, express=True, charged_us=77, weight=5, share=3)
    (held,) = claim(stage.db, 1)
    stage.do(
        "update orchestrator.task_queue set claimed_at = claimed_at - %s * interval '1 second'",
        ago_s,
    )
    return held


def end(stage: Stage, held: Claim, status: AttemptStatus, cost_us: int | None) -> None:
    ending = Ending(held.dispatch_key, held.claim_id, status, cost_us=cost_us)
    if status in (AttemptStatus.SUCCEEDED, AttemptStatus.DISCARDED, AttemptStatus.DEAD):
        run(stage.db, queue.finish(1, [ending], worker="test", closing=[held.claim_id]))
        return
    with stage.db.transaction():
        run(stage.db, queue.give_back(1, [ending], worker="test"))


ENDS = [AttemptStatus.SUCCEEDED, AttemptStatus.FAILED, AttemptStatus.SNOOZED]


@pytest.mark.parametrize("status", ENDS)
@pytest.mark.parametrize("cost_us", [0, 1, 123_456_789, LONG_AGO_S * SECOND_US])
def test_what_the_worker_measured_is_the_cost(
    stage: Stage, status: AttemptStatus, cost_us: int
) -> None:
    end(stage, claimed(stage), status, cost_us)
    assert lines(stage) == [Line(status, cost_us, 77, 5, 3, True)]


@pytest.mark.parametrize("status", ENDS)
@pytest.mark.parametrize("cost_us", [None, 10 * LONG_AGO_S * SECOND_US, 2**63 - 1])
def test_the_time_since_the_claim_bounds_it_and_stands_in_for_it(
    stage: Stage, status: AttemptStatus, cost_us: int | None
) -> None:
    end(stage, claimed(stage), status, cost_us)
    (line,) = lines(stage)
    assert LONG_AGO_S * SECOND_US <= line.cost_us < (LONG_AGO_S + 60) * SECOND_US


@pytest.mark.parametrize("cost_us", [-1, -(2**63), None])
def test_a_clock_that_went_back_costs_nothing_rather_than_less(
    stage: Stage, cost_us: int | None
) -> None:
    end(stage, claimed(stage, ago_s=-LONG_AGO_S), AttemptStatus.SUCCEEDED, cost_us)
    assert [line.cost_us for line in lines(stage)] == [0]


def test_a_lost_lease_costs_the_time_since_its_claim(stage: Stage) -> None:
    claimed(stage)
    stage.expire_leases()
    reap(stage.db)
    (line,) = lines(stage)
    assert LONG_AGO_S * SECOND_US <= line.cost_us < (LONG_AGO_S + 60) * SECOND_US
    assert line[2:] == (77, 5, 3, True)


def test_each_task_of_a_batch_has_its_own_cost(stage: Stage) -> None:
    put_ready(stage, 3)
    held = claim(stage.db, 3)
    # Not in the order of their keys: each cost has to follow its own key.
    said = [Ending(c.dispatch_key, c.claim_id, AttemptStatus.FAILED, cost_us=c.id) for c in held]
    with stage.db.transaction():
        run(stage.db, queue.give_back(1, said[::-1], worker="test"))
    query = "select count(*) from orchestrator.task_attempt where cost_us = task_id"
    assert stage.one(query) == 3


# Without a claim ---------------------------------------------------------------------------------


def cancelled(stage: Stage, task_id: int) -> None:
    cancel(stage.db, task_id)


def cancelled_in_a_batch(stage: Stage, task_id: int) -> None:
    with stage.db.transaction():
        assert run(stage.db, batch.cancel(1, [task_id], reason="test")) == {task_id}


def expired(stage: Stage, task_id: int) -> None:
    table = "task_queue" if stage.rows("select from orchestrator.task_queue") else "staging_queue"
    stage.do(f"update orchestrator.{table} set expires_at = clock_timestamp()")
    assert run(stage.db, queue.expire(1, limit=10)) == 1


UNCLAIMED = [cancelled, cancelled_in_a_batch, expired]


@pytest.mark.parametrize("gone", UNCLAIMED)
def test_a_ready_task_that_never_ran_costs_nothing_and_gives_its_charge_back(
    stage: Stage, gone: Callable[[Stage, int], None]
) -> None:
    (task_id,) = put_ready(stage, express=True, charged_us=77, weight=5, share=3)
    gone(stage, task_id)
    status = "expired" if gone is expired else "cancelled"
    assert lines(stage) == [Line(status, 0, 77, 5, 3, True)]


@pytest.mark.parametrize("gone", UNCLAIMED)
def test_a_task_that_was_never_admitted_has_no_charge_to_settle(
    stage: Stage, gone: Callable[[Stage, int], None]
) -> None:
    (task_id,) = stage.enqueue()
    gone(stage, task_id)
    status = "expired" if gone is expired else "cancelled"
    assert lines(stage) == [Line(status, 0, 0, 1, 1, False)]


# What people see ---------------------------------------------------------------------------------


def test_the_history_tells_the_cost(stage: Stage) -> None:
    held = claimed(stage)
    end(stage, held, AttemptStatus.SUCCEEDED, 1_500_000)
    (attempt,) = run(stage.db, tasks.get(held.id)).history
    assert attempt.cost_s == 1.5


def test_who_reports_no_cost_is_charged_the_time_since_the_claim(
    stage: Stage, client: Client
) -> None:
    put_ready(stage, 2)
    done, failed = client.claim(limit=2)
    stage.do("update orchestrator.task_queue set claimed_at = claimed_at - interval '1 minute'")
    client.ack(done)
    client.nack(failed, "no such thing")
    costs = [line.cost_us for line in lines(stage)]
    assert all(60 * SECOND_US <= cost < 120 * SECOND_US for cost in costs)
    assert len(costs) == 2


# What a worker measures --------------------------------------------------------------------------

# How long a handler takes; far more than what it costs to run one.
TOOK_S = 0.05


def run_app() -> App:
    app = App()

    @app.task("sync")
    def sync_handler(task: Task) -> None:
        threading.Event().wait(TOOK_S)

    @app.task("async")
    async def async_handler(task: Task) -> None:
        await asyncio.sleep(TOOK_S)

    @app.task("failing")
    def failing(task: Task) -> None:
        threading.Event().wait(TOOK_S)
        raise ValueError("no such thing")

    app.task("fast")(lambda task: None)
    return app


@pytest.mark.parametrize("name", ["sync", "async", "failing"])
def test_a_task_in_line_costs_nothing_until_it_runs(stage: Stage, name: str) -> None:
    count = 8
    with working(run_app(), stage.dsn, concurrency=1, poll_max_s=0.02):
        # Fast ones first, so that the worker claims ahead.
        until_ended(stage, put_ready(stage, 500, name="fast"))
        tasks = put_ready(stage, count, name=name)
        logged = "from orchestrator.task_attempt where task_id = any (%s)"
        until(lambda: stage.one(f"select count(*) {logged}", tasks) == count, "all of them ran")
    rows = stage.rows(f"select cost_us, claimed_at, ended_at {logged}", tasks)
    assert all(cost_us >= TOOK_S * 0.99 * SECOND_US for cost_us, _, _ in rows)
    # One ran after the other, and more than one was claimed when the first began.
    span = max(ended for _, _, ended in rows) - min(claimed for _, claimed, _ in rows)
    assert sum(cost_us for cost_us, _, _ in rows) <= span.total_seconds() * SECOND_US
    elapsed = sum((ended - claimed).total_seconds() for _, claimed, ended in rows)
    assert elapsed > 2 * span.total_seconds()


def test_what_a_process_of_its_own_takes_is_measured(stage: Stage) -> None:
    stage.do("create table mark (task_id bigint, attempt integer, pid integer, note text)")
    (task_id,) = put_ready(stage, name="hang", payload={"dsn": stage.dsn}, timeout_s=0.2)
    with working(worker_handlers.app, stage.dsn, poll_max_s=0.02):
        until_logged(stage, task_id, "failed")
    (line,) = lines(stage)
    assert line.cost_us >= 0.2 * SECOND_US


def test_a_task_without_a_handler_costs_nothing(stage: Stage) -> None:
    (task_id,) = put_ready(stage, name="unknown")
    with working(run_app(), stage.dsn, poll_max_s=0.02):
        until_logged(stage, task_id, "failed")
    assert [line.cost_us for line in lines(stage)] == [0]
