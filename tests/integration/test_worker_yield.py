"""What a running task hears, and how soon: leases are so long that no beat of its own is near."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from orchestrator import Client
from orchestrator.store.names import control_channel
from orchestrator.worker.app import App, Snooze, Task
from tests.support import worker_handlers
from tests.support.stage import Stage
from tests.support.waiting import PATIENCE_S, until
from tests.support.worker import (
    enqueue,
    history,
    process,
    until_ended,
    until_logged,
    working,
)

pytestmark = pytest.mark.usefixtures("replica")

LEASE_S = 300.0
# What is promised is about a second; a loaded machine takes longer, a missed word a hundred.
SOON_S = 15.0
STEP_S = 0.005
WORK = "from orchestrator.cli import main; main()"


@pytest.fixture(autouse=True)
def _mark(stage: Stage) -> None:
    stage.do("create table mark (task_id bigint, attempt integer, pid integer, note text)")


def notes(stage: Stage, note: str) -> list[tuple[int, int]]:
    """Return (task, process) of each mark that says so, in order."""
    return stage.rows("select task_id, pid from mark where note = %s order by ctid", note)


@contextmanager
def one_that_runs(stage: Stage) -> Iterator[int]:
    """Have a worker run a task that ends when it is cancelled, and not before; yield its id."""
    app = App()
    begun = threading.Event()

    @app.task("x")
    async def handler(task: Task) -> None:
        begun.set()
        await asyncio.Event().wait()

    (task_id,) = enqueue(stage, "x")
    with working(app, stage.dsn, lease_s=LEASE_S):
        assert begun.wait(PATIENCE_S)
        yield task_id


def until_cancelled(stage: Stage, task_id: int) -> None:
    """Return once a task has ended; its only attempt must have been cancelled."""
    ((line,),) = until_ended(stage, [task_id])
    assert line.status == "cancelled"


@pytest.mark.parametrize("where", ["thread", "process of the handler"])
def test_a_running_task_yields_to_a_critical_one_and_resumes(stage: Stage, where: str) -> None:
    stage.set_org("a", burst_max=1)
    timeout_s = None if where == "thread" else 600.0
    payload = {"dsn": stage.dsn}
    (patient,) = enqueue(
        stage, "steps", payload=payload, priority=1, timeout_s=timeout_s, max_attempts=1
    )
    with working(worker_handlers.app, stage.dsn, concurrency=1, lease_s=LEASE_S):
        until(lambda: notes(stage, "begun"), "the handler runs")
        begun = time.monotonic()
        (urgent,) = enqueue(stage, "mark", payload=payload, critical=True, priority=10)
        until_ended(stage, [urgent])
        assert time.monotonic() - begun < SOON_S
        yielded = until_logged(stage, patient, "snoozed")
        assert (yielded.attempt, yielded.error) == (1, "made room")
        until(lambda: len(notes(stage, "begun")) == 2, "it resumes")
        stage.do("insert into mark (note) values ('end')")
        (lines,) = until_ended(stage, [patient])
    # Its only attempt was not spent by making room.
    assert [(line.attempt, line.status) for line in lines] == [(1, "snoozed"), (1, "succeeded")]
    assert len(notes(stage, "yielded")) == 1


def test_a_worker_process_has_its_task_yield(stage: Stage) -> None:
    stage.set_org("a", burst_max=1)
    payload = {"dsn": stage.dsn}
    (patient,) = enqueue(stage, "steps", payload=payload, priority=5)
    arguments = ["worker", "tests.support.worker_handlers:app", "--concurrency", "1"]
    environment = {"DATABASE_URL": stage.dsn, "ORCHESTRATOR_WORKER_LEASE_S": str(LEASE_S)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        with process(WORK, *arguments) as worker:
            until(lambda: notes(stage, "begun") == [(patient, worker.pid)], "the handler runs")
            (urgent,) = enqueue(stage, "mark", payload=payload, critical=True, priority=10)
            until_ended(stage, [urgent])
            assert [line.status for line in history(stage, patient)] == ["snoozed"]
            stage.do("insert into mark (note) values ('end')")
            until_ended(stage, [patient])
    assert worker.pid != os.getpid()


def test_an_async_handler_yields_between_steps(stage: Stage) -> None:
    app = App()
    begun = threading.Event()
    runs: list[int] = []
    seen: list[tuple[bool, bool, bool]] = []

    @app.task("x")
    async def handler(task: Task) -> Snooze | None:
        runs.append(task.attempt)
        if len(runs) > 1:
            return None
        begun.set()
        for _ in range(round(PATIENCE_S / STEP_S)):
            await asyncio.sleep(STEP_S)
            if task.should_yield:
                break
        seen.append((task.yielding, task.cancelled, task.stopping))
        return Snooze()

    @app.task("urgent")
    async def urgent(task: Task) -> None: ...

    stage.set_org("a", burst_max=1)
    (patient,) = enqueue(stage, "x", priority=9)
    with working(app, stage.dsn, lease_s=LEASE_S):
        assert begun.wait(PATIENCE_S)
        (critical,) = enqueue(stage, "urgent", critical=True, priority=10)
        until_ended(stage, [critical, patient])
    assert runs == [1, 1]
    assert seen == [(True, False, False)]


def test_a_cancellation_reaches_a_running_task_at_once(stage: Stage, client: Client) -> None:
    with one_that_runs(stage) as task_id:
        asked_at = time.monotonic()
        client.cancel(task_id)
        until_cancelled(stage, task_id)
        assert time.monotonic() - asked_at < SOON_S


def test_a_request_that_is_withdrawn_is_no_longer_seen(stage: Stage) -> None:
    app, gate, done = App(), threading.Event(), threading.Event()
    tasks: dict[str, Task] = {}

    @app.task("first")
    def first(task: Task) -> None:
        tasks["first"] = task
        done.wait(PATIENCE_S)

    @app.task("second")
    def second(task: Task) -> None:
        tasks["second"] = task
        gate.wait(PATIENCE_S)

    app.task("urgent")(lambda task: None)
    stage.set_org("a", burst_max=2)
    (low,) = enqueue(stage, "first", priority=1)
    enqueue(stage, "second", priority=9)
    with working(app, stage.dsn, lease_s=LEASE_S):
        until(lambda: len(tasks) == 2, "both run")
        (critical,) = enqueue(stage, "urgent", critical=True, priority=10)
        until(lambda: tasks["first"].should_yield, "the lower one is asked")
        assert not tasks["second"].should_yield
        # The other one ends by itself, and the critical task takes its slot.
        gate.set()
        until_ended(stage, [critical])
        until(lambda: not tasks["first"].should_yield, "it is asked no more")
        done.set()
        until_ended(stage, [low])


def test_without_notifications_a_heartbeat_brings_the_word(stage: Stage) -> None:
    stage.set_org("a", burst_max=1)
    payload = {"dsn": stage.dsn}
    (patient,) = enqueue(stage, "steps", payload=payload, priority=1)
    with working(worker_handlers.app, stage.dsn, lease_s=1, listen=False, poll_max_s=0.1):
        until(lambda: notes(stage, "begun"), "the handler runs")
        (urgent,) = enqueue(stage, "mark", payload=payload, critical=True, priority=10)
        until_ended(stage, [urgent])
        stage.do("insert into mark (note) values ('end')")
        until_ended(stage, [patient])
    assert len(notes(stage, "yielded")) == 1


def test_a_worker_whose_ear_was_cut_off_hears_again(stage: Stage, client: Client) -> None:
    ears = "from pg_stat_activity where application_name like 'orchestrator heartbeat%%'"
    with one_that_runs(stage) as task_id:
        before = until(lambda: stage.rows(f"select pid {ears}"), "it listens")
        stage.do(f"select pg_terminate_backend(pid) {ears}")
        until(lambda: stage.rows(f"select pid {ears}") not in ([], before), "it listens again")
        client.cancel(task_id)
        until_cancelled(stage, task_id)


def test_everybody_looks_where_no_lease_is_named(stage: Stage) -> None:
    with one_that_runs(stage) as task_id:
        stage.do("update orchestrator.lease set cancelled = dispatch_keys")
        with psycopg.connect(stage.dsn, autocommit=True) as other:
            other.execute("select pg_notify(%s, '')", [control_channel(1)])
        until_cancelled(stage, task_id)
