"""Workers that are killed, paused and cut off: nothing is lost, and nothing ends twice."""

import itertools
import os
import signal
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest

from orchestrator.errors import DatabaseUnavailable
from orchestrator.store.sql import Operation
from orchestrator.worker.app import App, Task
from orchestrator.worker.session import Session
from tests.support import worker_handlers
from tests.support.stage import Stage
from tests.support.waiting import PATIENCE_S, until
from tests.support.worker import (
    enqueue,
    history,
    is_alive,
    process,
    until_ended,
    until_logged,
    until_no_lease,
    working,
)

pytestmark = pytest.mark.usefixtures("replica")

# Work until told to go, or killed.
WORK = """
import signal, sys
from orchestrator.worker.worker import Worker
from tests.support.worker import settings
from tests.support.worker_handlers import app
worker = Worker(app, sys.argv[1], settings(lease_s=1), concurrency=4)
signal.signal(signal.SIGTERM, lambda *_: worker.stop())
worker.run()
print("drained")
"""


@pytest.fixture(autouse=True)
def _mark(stage: Stage) -> None:
    stage.do("create table mark (task_id bigint, attempt integer, pid integer, note text)")


def marks(stage: Stage) -> list[tuple[int, int, int]]:
    """Return (task, attempt, process) of each mark."""
    return [
        (task_id, attempt, pid)
        for task_id, attempt, pid in stage.rows("select task_id, attempt, pid from mark")
    ]


def finals(stage: Stage, task_ids: Sequence[int]) -> list[int]:
    """Return how many ends each task has."""
    return [sum(line.final for line in history(stage, task_id)) for task_id in task_ids]


def test_a_killed_workers_task_runs_again_with_the_next_attempt(stage: Stage) -> None:
    (task_id,) = enqueue(stage, "hang once", payload={"dsn": stage.dsn})
    with process(WORK, stage.dsn) as worker:
        until(lambda: marks(stage), "the handler runs")
        worker.kill()
        worker.wait()
    lost = until_logged(stage, task_id, "lost")
    assert lost.error == "lease expired: the worker stopped extending it"
    with working(worker_handlers.app, stage.dsn):
        (lines,) = until_ended(stage, [task_id])
    assert [(line.attempt, line.status) for line in lines] == [(1, "lost"), (2, "succeeded")]
    assert [(attempt, pid) for _, attempt, pid in marks(stage)] == [
        (1, worker.pid),
        (2, os.getpid()),
    ]


def test_no_process_survives_a_killed_worker(stage: Stage) -> None:
    for name in ("spin", "hold"):
        enqueue(stage, name, payload={"dsn": stage.dsn}, timeout_s=600)
    with process(WORK, stage.dsn) as worker:
        until(lambda: len(marks(stage)) == 2, "both handlers run")
        children = [pid for _, _, pid in marks(stage)]
        assert worker.pid not in children
        worker.kill()
        worker.wait()
        until(lambda: not any(map(is_alive, children)), "the processes of handlers are gone")


def test_a_terminated_worker_drains(stage: Stage) -> None:
    tasks = enqueue(stage, "mark", 20, payload={"dsn": stage.dsn})
    with process(WORK, stage.dsn) as worker:
        until_ended(stage, tasks)
        worker.terminate()
        said, _ = worker.communicate(timeout=PATIENCE_S)
    assert worker.returncode == 0
    assert "drained" in said
    until_no_lease(stage)


def test_what_a_paused_worker_says_too_late_counts_for_nothing(stage: Stage) -> None:
    (task_id,) = enqueue(stage, "hang once", payload={"dsn": stage.dsn})
    others = enqueue(stage, "mark", 20, payload={"dsn": stage.dsn})
    with process(WORK, stage.dsn) as worker:
        until(lambda: task_id in [task for task, _, _ in marks(stage)], "the handler runs")
        worker.send_signal(signal.SIGSTOP)
        until_logged(stage, task_id, "lost")
        with working(worker_handlers.app, stage.dsn):
            until_ended(stage, [task_id, *others])
        worker.send_signal(signal.SIGCONT)
        # It works on with what it still has: a task enqueued now may be its own.
        until_ended(stage, enqueue(stage, "mark", 5, payload={"dsn": stage.dsn}))
    assert finals(stage, [task_id, *others]) == [1] * 21


def test_lost_connections_lose_no_task_and_end_none_twice(stage: Stage) -> None:
    app = App()
    runs: dict[int, int] = {}
    lock = threading.Lock()

    @app.task("x")
    def handler(task: Task) -> None:
        with lock:
            runs[task.id] = runs.get(task.id, 0) + 1

    tasks = enqueue(stage, "x", 3000)
    ended = "select count(*) >= %s from orchestrator.task_attempt where final"
    cut = (
        "select count(pg_terminate_backend(pid)) from pg_stat_activity"
        " where datname = current_database() and application_name similar to"
        " 'orchestrator (fetcher|acks|heartbeat|worker) %%'"
    )
    with working(app, stage.dsn, lease_s=5):
        cuts = 0
        for due in range(300, 3000, 300):
            until(partial(stage.one, ended, due), "the next tenth has ended")
            cuts += stage.one(cut)
        until_ended(stage, tasks)
    assert cuts >= 9
    assert finals(stage, tasks) == [1] * 3000
    assert {line.status for task_id in tasks for line in history(stage, task_id) if line.final} == {
        "succeeded"
    }
    assert runs.keys() == set(tasks)
    assert stage.one("select count(*) from orchestrator.task_queue") == 0
    until_no_lease(stage)


def test_stopping_at_any_moment_runs_every_task_once(stage: Stage) -> None:
    app = App()
    runs: list[int] = []
    app.task("sync")(lambda task: runs.append(task.id))

    @app.task("async")
    async def handler(task: Task) -> None:
        runs.append(task.id)

    tasks = []
    for kind in ("sync", "async") * 15:
        tasks += enqueue(stage, kind, 100)
    for more in itertools.cycle((1, 300, 20, 150, 4)):
        due = min(len(runs) + more, len(tasks))
        with working(app, stage.dsn, concurrency=3, lease_s=5):
            until(partial(_has, runs, due), f"{due} have run")
        if due == len(tasks):
            break
    ended = until_ended(stage, tasks)
    assert sorted(runs) == tasks
    assert all(lines[-1][:2] == (1, "succeeded") for lines in ended)
    assert {line.status for lines in ended for line in lines} <= {"released", "succeeded"}
    until_no_lease(stage)


def _has(runs: Sequence[int], due: int) -> bool:
    return len(runs) >= due


class Forgetful:
    """Lets a session lose the answer, once, to something that was committed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str, part: str) -> None:
        self.lost = False
        whole: Callable[[Session, Operation], Any] = getattr(Session, method)

        def forget(session: Session, operation: Operation) -> Any:
            answer = whole(session, operation)
            if answer and not self.lost and part in session.name:
                self.lost = True
                session.close()
                raise DatabaseUnavailable("the connection was lost after the commit")
            return answer

        monkeypatch.setattr(Session, method, forget)


def test_a_claim_without_an_answer_is_looked_up_and_given_back(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = enqueue(stage, "mark", 5, payload={"dsn": stage.dsn})
    ready = "select count(*) from orchestrator.task_queue where claim_id is null"
    until(lambda: stage.one(ready) == 5, "they are ready")
    with working(worker_handlers.app, stage.dsn, lease_s=600):
        # From here on: the session that looked up the queue is the one that claims.
        forgetful = Forgetful(monkeypatch, "run", "fetcher")
        more = enqueue(stage, "mark", 20, payload={"dsn": stage.dsn})
        ended = until_ended(stage, [*tasks, *more])
    assert forgetful.lost
    statuses = [[(line.attempt, line.status) for line in lines] for lines in ended]
    assert [(1, "released"), (1, "succeeded")] in statuses
    assert all(lines[-1] == (1, "succeeded") for lines in statuses)


@pytest.mark.parametrize(
    ("name", "method", "status"), [("mark", "run", "succeeded"), ("raise", "transact", "failed")]
)
def test_a_flush_without_an_answer_is_sent_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, name: str, method: str, status: str
) -> None:
    forgetful = Forgetful(monkeypatch, method, "acks")
    (task_id,) = enqueue(stage, name, payload={"dsn": stage.dsn})
    with working(worker_handlers.app, stage.dsn, lease_s=600):
        until_logged(stage, task_id, status)
        until_ended(stage, enqueue(stage, "mark", payload={"dsn": stage.dsn}))
    assert forgetful.lost
    # Once for each attempt; a second one may have followed, after a short backoff.
    attempts = [line.attempt for line in history(stage, task_id) if line.status == status]
    assert attempts == sorted(set(attempts))


def test_a_lost_lease_stops_what_it_covers(stage: Stage) -> None:
    app = App()
    begun, told = threading.Event(), threading.Event()

    @app.task("x")
    def handler(task: Task) -> None:
        if task.attempt == 1:
            begun.set()
            until(lambda: task.cancelled, "the loss is noticed")
            told.set()

    (task_id,) = enqueue(stage, "x")
    with working(app, stage.dsn, lease_s=1):
        assert begun.wait(PATIENCE_S)
        stage.expire_leases()
        until_logged(stage, task_id, "lost")
        assert told.wait(PATIENCE_S)
        (lines,) = until_ended(stage, [task_id])
    assert [(line.attempt, line.status) for line in lines] == [(1, "lost"), (2, "succeeded")]


def test_a_worker_that_hears_nothing_gives_up_its_leases_by_its_own_clock(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App()
    begun, told = threading.Event(), threading.Event()

    @app.task("x")
    def handler(task: Task) -> None:
        if task.attempt == 1:
            begun.set()
            until(lambda: task.cancelled, "the silence is noticed")
            told.set()

    enqueue(stage, "x")
    with working(app, stage.dsn, lease_s=1):
        assert begun.wait(PATIENCE_S)
        cut_off = threading.Event()
        whole = Session.run

        def unplugged(session: Session, operation: Operation) -> Any:
            if "heartbeat" in session.name and not cut_off.is_set():
                raise DatabaseUnavailable("the cable is out")
            return whole(session, operation)

        monkeypatch.setattr(Session, "run", unplugged)
        assert told.wait(PATIENCE_S)
        cut_off.set()
