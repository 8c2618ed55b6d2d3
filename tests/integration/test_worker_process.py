"""Sync handlers with a timeout: they run in processes of their own, which can be ended."""

import os
from typing import Any

import pytest

from orchestrator import Client
from orchestrator.worker.app import App, Task
from tests.support import worker_handlers
from tests.support.stage import Stage
from tests.support.waiting import until
from tests.support.worker import Line, enqueue, is_alive, until_ended, until_logged, working

pytestmark = pytest.mark.usefixtures("replica")
app = worker_handlers.app


@pytest.fixture(autouse=True)
def _mark(stage: Stage) -> None:
    stage.do("create table mark (task_id bigint, attempt integer, pid integer, note text)")


def run_one(stage: Stage, name: str, **fields: Any) -> Line:
    """Run one task with one attempt; return how it ended."""
    payload = {"dsn": stage.dsn} | fields.pop("payload", {})
    (task_id,) = enqueue(stage, name, payload=payload, **({"max_attempts": 1} | fields))
    with working(app, stage.dsn):
        ((*_, line),) = until_ended(stage, [task_id])
    return line


def marks(stage: Stage) -> list[int]:
    """Return the processes that left marks, one for each mark."""
    return [pid for (pid,) in stage.rows("select pid from mark")]


def until_gone(*pids: int) -> None:
    until(lambda: not any(is_alive(pid) for pid in pids), "the processes are gone")


def test_a_handler_with_a_timeout_runs_in_a_process_that_serves_many_tasks(stage: Stage) -> None:
    tasks = enqueue(stage, "mark", 5, payload={"dsn": stage.dsn}, timeout_s=60)
    with working(app, stage.dsn, concurrency=1):
        ended = until_ended(stage, tasks)
        (pid,) = set(marks(stage))
        assert is_alive(pid)
    assert [lines[0].status for lines in ended] == ["succeeded"] * 5
    assert pid != os.getpid()
    until_gone(pid)


def test_without_a_timeout_it_runs_in_the_worker(stage: Stage) -> None:
    assert run_one(stage, "mark").status == "succeeded"
    assert marks(stage) == [os.getpid()]


@pytest.mark.parametrize("name", ["hang", "spin"])
def test_a_handler_is_killed_at_its_timeout(stage: Stage, name: str) -> None:
    line = run_one(stage, name, timeout_s=0.3)
    assert (line.status, line.error) == ("dead", "timed out after 0.3 s")
    until_gone(*marks(stage))


def test_what_the_handler_started_is_killed_with_it(stage: Stage) -> None:
    line = run_one(stage, "spawn and hang", timeout_s=1)
    assert line.error == "timed out after 1 s"
    until_gone(*marks(stage), int(stage.one("select note from mark")))


def test_the_slot_serves_on_after_a_timeout(stage: Stage) -> None:
    fields: dict[str, Any] = {"payload": {"dsn": stage.dsn}, "timeout_s": 0.3, "max_attempts": 1}
    slow = enqueue(stage, "hang", **fields)
    with working(app, stage.dsn, concurrency=1):
        until_ended(stage, slow)
        ((line,),) = until_ended(stage, enqueue(stage, "mark", **(fields | {"timeout_s": 60})))
    assert line.status == "succeeded"
    assert len(set(marks(stage))) == 2


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("exit", "its process ended: exit code 7"),
        ("segfault", "its process ended: killed by SIGSEGV"),
    ],
)
def test_a_handler_that_takes_its_process_down_fails_alone(
    stage: Stage, name: str, error: str
) -> None:
    (bad,) = enqueue(stage, name, timeout_s=60, max_attempts=1)
    good = enqueue(stage, "mark", 5, payload={"dsn": stage.dsn}, timeout_s=60)
    with working(app, stage.dsn, concurrency=2):
        ((line,), *others) = until_ended(stage, [bad, *good])
    assert (line.status, line.error) == ("dead", error)
    assert [lines[0].status for lines in others] == ["succeeded"] * 5


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("raise", "ValueError: no such thing\n"),
        ("quit", "SystemExit: enough\n"),
        ("wrong", "InvalidInput: the handler returned int"),
    ],
)
def test_its_errors_come_back(stage: Stage, name: str, error: str) -> None:
    line = run_one(stage, name, timeout_s=60)
    assert line.error is not None
    assert line.error.startswith(error)


def test_its_answers_come_back(stage: Stage) -> None:
    line = run_one(stage, "discard", timeout_s=60)
    assert (line.status, line.error) == ("discarded", "nobody wants it")
    snoozed = enqueue(
        stage, "snooze", payload={"dsn": stage.dsn, "naps": True}, timeout_s=60, max_attempts=1
    )
    with working(app, stage.dsn):
        assert until_logged(stage, snoozed[0], "snoozed").error == "not yet"


def test_a_handler_that_cannot_be_imported_says_so(stage: Stage) -> None:
    local = App()

    @local.task("x")
    def handler(task: Task) -> None:
        pass

    (task_id,) = enqueue(stage, "x", timeout_s=60, max_attempts=1)
    with working(local, stage.dsn):
        ((line,),) = until_ended(stage, [task_id])
    assert line.error is not None
    assert line.error.endswith("define it at the top level of a module")


def test_a_cancelled_task_is_killed(stage: Stage, client: Client) -> None:
    (task_id,) = enqueue(stage, "spin", payload={"dsn": stage.dsn}, timeout_s=60)
    with working(app, stage.dsn, lease_s=1):
        until(lambda: marks(stage), "the handler runs")
        client.cancel(task_id)
        ((line,),) = until_ended(stage, [task_id])
        until_gone(*marks(stage))
    assert (line.status, line.error) == ("cancelled", "cancelled")


def test_after_the_drain_timeout_the_process_is_killed_and_the_task_given_back(
    stage: Stage,
) -> None:
    (task_id,) = enqueue(stage, "spin", payload={"dsn": stage.dsn}, timeout_s=60)
    with working(app, stage.dsn, drain_timeout_s=0) as running:
        until(lambda: marks(stage), "the handler runs")
        running.stop()
    assert until_logged(stage, task_id, "released").attempt == 1
    until_gone(*marks(stage))
