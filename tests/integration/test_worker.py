"""A worker and a replica on a real database: what becomes of tasks, one behaviour a test."""

import asyncio
import sys
import threading
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import psycopg
import pytest

from orchestrator import Client
from orchestrator.errors import ConfigError, DatabaseUnavailable, UnknownQueue
from orchestrator.worker import fetcher
from orchestrator.worker.app import App, Discard, Done, Snooze, Task
from orchestrator.worker.heartbeat import Heartbeat
from orchestrator.worker.worker import Worker
from tests.support.stage import Stage
from tests.support.stepping import claim
from tests.support.waiting import PATIENCE_S, until
from tests.support.worker import (
    Running,
    enqueue,
    history,
    settings,
    until_ended,
    until_logged,
    working,
)

pytestmark = pytest.mark.usefixtures("replica")


def statuses(lines: list[Any]) -> list[tuple[int, str]]:
    return [(line.attempt, line.status) for line in lines]


def expedite(stage: Stage) -> None:
    """Let every backoff be over."""
    stage.do("update orchestrator.scheduled_queue set run_at = clock_timestamp()")


def test_sync_and_async_handlers_see_their_tasks(stage: Stage) -> None:
    app = App()
    seen: dict[str, Task] = {}

    @app.task("sync")
    def sync_handler(task: Task) -> None:
        seen["sync"] = task

    @app.task("async")
    async def async_handler(task: Task) -> Done:
        await asyncio.sleep(0)
        seen["async"] = task
        return Done()

    ids = [
        *enqueue(stage, "sync", payload={"a": [1]}, org="acme", workload="api", priority=9),
        *enqueue(stage, "async", headers={"trace": "x"}, org="globex"),
    ]
    with working(app, stage.dsn):
        ended = until_ended(stage, ids)
    assert [statuses(lines) for lines in ended] == [[(1, "succeeded")]] * 2
    task = seen["sync"]
    assert (task.payload, task.org, task.workload, task.priority) == ({"a": [1]}, "acme", "api", 9)
    assert (task.id, task.attempt, task.max_attempts) == (ids[0], 1, 5)
    assert seen["async"].headers == {"trace": "x"}
    assert stage.one("select count(*) from orchestrator.lease") == 0
    assert stage.one("select count(*) from orchestrator.task_queue") == 0


def test_the_worker_is_named_in_the_history(stage: Stage) -> None:
    app = App()
    app.task("x")(lambda task: None)
    (task_id,) = enqueue(stage, "x")
    with working(app, stage.dsn) as running:
        until_ended(stage, [task_id])
        name = running.worker.name
    assert stage.one("select worker from orchestrator.task_attempt where final") == name


def test_a_snooze_gives_the_attempt_back(stage: Stage) -> None:
    app = App()
    attempts: list[int] = []

    @app.task("x")
    def handler(task: Task) -> Snooze | None:
        attempts.append(task.attempt)
        return Snooze(0.01, "not yet") if len(attempts) < 3 else None

    (task_id,) = enqueue(stage, "x", max_attempts=1)
    with working(app, stage.dsn):
        (lines,) = until_ended(stage, [task_id])
    assert attempts == [1, 1, 1]
    assert statuses(lines) == [(1, "snoozed"), (1, "snoozed"), (1, "succeeded")]
    assert lines[0].error == "not yet"


def test_a_discard_ends_the_task_at_once(stage: Stage) -> None:
    app = App()

    @app.task("x")
    async def handler(task: Task) -> Discard:
        return Discard("nobody wants it")

    (task_id,) = enqueue(stage, "x")
    with working(app, stage.dsn):
        (lines,) = until_ended(stage, [task_id])
    assert [(line.status, line.error) for line in lines] == [("discarded", "nobody wants it")]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_error_is_tried_again_after_a_backoff(stage: Stage, kind: str) -> None:
    app = App()

    def fail_once(task: Task) -> None:
        if task.attempt == 1:
            raise ValueError("no such thing")

    @app.task("async")
    async def async_handler(task: Task) -> None:
        fail_once(task)

    app.task("sync")(fail_once)
    (task_id,) = enqueue(stage, kind)
    with working(app, stage.dsn):
        line = until_logged(stage, task_id, "failed")
        expedite(stage)
        (lines,) = until_ended(stage, [task_id])
    assert line.error is not None
    assert line.error.startswith("ValueError: no such thing\n")
    assert "fail_once" in line.error
    assert statuses(lines) == [(1, "failed"), (2, "succeeded")]


def test_attempts_spent_make_a_dead_letter(stage: Stage) -> None:
    app = App()

    @app.task("x")
    def handler(task: Task) -> None:
        raise ValueError("never")

    (task_id,) = enqueue(stage, "x", max_attempts=2)
    with working(app, stage.dsn):
        until_logged(stage, task_id, "failed")
        expedite(stage)
        (lines,) = until_ended(stage, [task_id])
    assert statuses(lines) == [(1, "failed"), (2, "dead")]


class Unprintable(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(
    ("error", "text"),
    [
        (SystemExit("enough"), "SystemExit: enough"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (asyncio.CancelledError(), "CancelledError"),
        (GeneratorExit(), "GeneratorExit"),
        (Unprintable(), "Unprintable: (its text cannot be shown)"),
        (ValueError("a\0\ud800" + "x" * 10_000), "ValueError: a\N{REPLACEMENT CHARACTER}?xxx"),
    ],
)
def test_no_error_of_a_handler_ends_the_worker(
    stage: Stage, kind: str, error: BaseException, text: str
) -> None:
    app = App()

    @app.task("sync")
    def sync_handler(task: Task) -> None:
        raise error

    @app.task("async")
    async def async_handler(task: Task) -> None:
        raise error

    @app.task("good")
    def good(task: Task) -> None:
        pass

    (bad_id,) = enqueue(stage, kind, max_attempts=1)
    with working(app, stage.dsn):
        ((line,),) = until_ended(stage, [bad_id])
        ((good_line,),) = until_ended(stage, enqueue(stage, "good"))
    assert line.status == "dead"
    assert line.error is not None
    assert line.error.startswith(text)
    assert len(line.error) <= 4_000
    assert good_line.status == "succeeded"


async def leave() -> None:
    sys.exit("enough")


async def stop_the_loop() -> None:
    asyncio.get_running_loop().stop()


@pytest.mark.parametrize("how", [leave, stop_the_loop])
def test_no_task_that_an_async_handler_makes_ends_the_loop_of_all(
    stage: Stage, how: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    app = App()
    beside = threading.Event()

    @app.task("x")
    async def handler(task: Task) -> None:
        await asyncio.gather(how())

    @app.task("beside")
    async def another(task: Task) -> None:
        beside.set()
        while not task.cancelled:
            await asyncio.sleep(0)
            if not beside.is_set():
                return

    (running,) = enqueue(stage, "beside")
    with working(app, stage.dsn) as worker:
        assert beside.wait(PATIENCE_S)
        (failing,) = enqueue(stage, "x", max_attempts=1)
        (lines,) = until_ended(stage, [failing])
        beside.clear()
        (others,) = until_ended(stage, [running])
        assert worker.error is None
    assert statuses(others) == [(1, "succeeded")]
    error = lines[0].error
    assert (error or "").startswith("SystemExit: enough") is (how is leave)


def test_a_wrong_answer_fails_the_attempt(stage: Stage) -> None:
    app = App()
    answer: Any = lambda task: 42  # noqa: E731
    app.task("x")(answer)
    (task_id,) = enqueue(stage, "x", max_attempts=1)
    with working(app, stage.dsn):
        ((line,),) = until_ended(stage, [task_id])
    assert line.error is not None
    assert "the handler returned int: return None, Done, Snooze or Discard" in line.error


def test_a_task_without_a_handler_is_tried_elsewhere(stage: Stage) -> None:
    app, other = App(), App()
    app.task("known")(lambda task: None)
    other.task("unknown")(lambda task: None)
    (known,) = enqueue(stage, "known")
    (unknown,) = enqueue(stage, "unknown")
    with working(app, stage.dsn):
        line = until_logged(stage, unknown, "failed")
        until_ended(stage, [known])
    assert line.error == "no handler for 'unknown' in this worker"
    with working(other, stage.dsn):
        expedite(stage)
        (lines,) = until_ended(stage, [unknown])
    assert statuses(lines) == [(1, "failed"), (2, "succeeded")]


@pytest.mark.parametrize("payload", ["1e5000", "[" * 3000 + "]" * 3000], ids=["huge", "deep"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_undecodable_payload_is_a_dead_letter_and_nothing_else(
    stage: Stage, kind: str, payload: str
) -> None:
    app = App()

    @app.task("async")
    async def handler(task: Task) -> None:
        pass

    app.task("sync")(lambda task: None)
    before, bad, after = enqueue(stage, kind, 3)
    stage.do("update orchestrator.task set payload = %s::jsonb where id = %s", payload, bad)
    with working(app, stage.dsn):
        lines = until_ended(stage, [before, bad, after])
    assert [statuses(each) for each in lines] == [
        [(1, "succeeded")],
        [(1, "dead")],
        [(1, "succeeded")],
    ]
    assert lines[1][0].error is not None
    assert lines[1][0].error.startswith(f"payload of task {bad} cannot be decoded")


def test_a_task_whose_record_is_gone_is_a_dead_letter(stage: Stage) -> None:
    app = App()
    app.task("x")(lambda task: None)
    (task_id,) = enqueue(stage, "x")
    stage.do("delete from orchestrator.task where id = %s", task_id)
    with working(app, stage.dsn):
        ((line,),) = until_ended(stage, [task_id])
    assert (line.status, line.error) == ("dead", "the record of the task is gone")


def test_context_variables_end_with_their_task(stage: Stage) -> None:
    app = App()
    variable: ContextVar[str] = ContextVar("variable", default="clean")
    seen: list[str] = []

    @app.task("sync")
    def sync_handler(task: Task) -> None:
        seen.append(variable.get())
        variable.set("dirty")

    @app.task("async")
    async def async_handler(task: Task) -> None:
        sync_handler(task)

    ids = enqueue(stage, "sync", 20) + enqueue(stage, "async", 20)
    with working(app, stage.dsn, concurrency=2):
        until_ended(stage, ids)
    assert seen == ["clean"] * 40


def test_an_async_handler_is_cancelled_at_its_timeout(stage: Stage) -> None:
    app = App()

    @app.task("x")
    async def handler(task: Task) -> None:
        await asyncio.Event().wait()

    (task_id,) = enqueue(stage, "x", timeout_s=0.05, max_attempts=1)
    with working(app, stage.dsn):
        ((line,),) = until_ended(stage, [task_id])
    assert (line.status, line.error) == ("dead", "timed out after 0.05 s")


def test_a_timeout_of_the_handlers_own_is_its_own(stage: Stage) -> None:
    app = App()

    @app.task("x")
    async def handler(task: Task) -> None:
        raise TimeoutError("the other side is slow")

    (task_id,) = enqueue(stage, "x", timeout_s=60, max_attempts=1)
    with working(app, stage.dsn):
        ((line,),) = until_ended(stage, [task_id])
    assert line.error is not None
    assert line.error.startswith("TimeoutError: the other side is slow")


def test_a_cancelled_async_handler_is_told(stage: Stage, client: Client) -> None:
    app = App()
    begun, told = threading.Event(), threading.Event()

    @app.task("x")
    async def handler(task: Task) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if task.cancelled and task.should_yield:
                told.set()
            raise

    (task_id,) = enqueue(stage, "x")
    with working(app, stage.dsn, lease_s=1):
        assert begun.wait(PATIENCE_S)
        client.cancel(task_id)
        ((line,),) = until_ended(stage, [task_id])
    assert told.is_set()
    assert (line.status, line.error) == ("cancelled", "cancelled")


def test_a_cancelled_task_in_line_never_starts(
    stage: Stage, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher, "LINE_MAX_S", 1000.0)
    app, gate = App(), Gate()
    app.task("slow")(gate)
    app.task("fast")(lambda task: None)
    in_line = (
        "select task_id from orchestrator.task_queue where claim_id is not null and task_id > %s"
    )
    with working(app, stage.dsn, lease_s=1, concurrency=1):
        until_ended(stage, enqueue(stage, "fast", 500))
        (first, *others) = enqueue(stage, "slow", 20)
        until(lambda: gate.inside == 1, "the slot is taken")
        ((task_id,), *_) = until(lambda: stage.rows(in_line, first), "a task waits in line")
        client.cancel(task_id)
        ((line,),) = until_ended(stage, [task_id])
        gate.open()
        until_ended(stage, [first, *others])
    assert (line.status, line.error) == ("cancelled", "cancelled")
    assert task_id not in gate.started


def test_a_cancelled_sync_handler_sees_a_flag(stage: Stage, client: Client) -> None:
    app = App()
    begun = threading.Event()

    @app.task("x")
    def handler(task: Task) -> None:
        begun.set()
        until(lambda: task.cancelled and task.should_yield, "the task is cancelled")
        raise RuntimeError("stopped half way")

    (task_id,) = enqueue(stage, "x")
    with working(app, stage.dsn, lease_s=1):
        assert begun.wait(PATIENCE_S)
        client.cancel(task_id)
        ((line,),) = until_ended(stage, [task_id])
    assert line.status == "cancelled"


def test_a_handler_may_finish_a_cancelled_task(stage: Stage, client: Client) -> None:
    app = App()
    begun = threading.Event()

    @app.task("x")
    def handler(task: Task) -> None:
        begun.set()
        until(lambda: task.cancelled, "the task is cancelled")

    (task_id,) = enqueue(stage, "x")
    with working(app, stage.dsn, lease_s=1):
        assert begun.wait(PATIENCE_S)
        client.cancel(task_id)
        (lines,) = until_ended(stage, [task_id])
    assert statuses(lines) == [(1, "succeeded")]


class Gate:
    """A handler that counts who is inside, and lets nobody out before it is opened."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = threading.Event()
        self.started: list[int] = []
        self.inside = 0
        self.most = 0

    def enter(self, task: Task) -> None:
        with self._lock:
            self.started.append(task.id)
            self.inside += 1
            self.most = max(self.most, self.inside)

    def leave(self) -> None:
        with self._lock:
            self.inside -= 1

    def __call__(self, task: Task) -> None:
        self.enter(task)
        try:
            assert self._open.wait(PATIENCE_S)
        finally:
            self.leave()

    async def pass_async(self, task: Task) -> None:
        self.enter(task)
        try:
            await asyncio.get_running_loop().run_in_executor(None, self._open.wait, PATIENCE_S)
        finally:
            self.leave()

    def open(self) -> None:
        self._open.set()


def test_concurrency_is_one_number_for_both_kinds(stage: Stage) -> None:
    app, gate = App(), Gate()
    app.task("sync")(gate)
    app.task("async")(gate.pass_async)
    app.task("fast")(lambda task: None)
    claimed = "select count(*) from orchestrator.task_queue where claim_id is not null"
    with working(app, stage.dsn, concurrency=3):
        # Fast ones first, so that the worker claims ahead and more wait than may run.
        until_ended(stage, enqueue(stage, "fast", 500))
        ids = []
        for _ in range(4):
            ids += enqueue(stage, "async", 5) + enqueue(stage, "sync", 5)
        until(lambda: gate.inside >= 3 and stage.one(claimed) > 6, "three run, more wait")
        gate.open()
        until_ended(stage, ids)
    assert gate.most == 3


def test_slow_tasks_are_not_claimed_ahead(stage: Stage) -> None:
    app, gate = App(), Gate()
    app.task("x")(gate)
    ids = enqueue(stage, "x", 30)
    claimed = "select count(*) from orchestrator.task_queue where claim_id is not null"
    ready = "select count(*) from orchestrator.task_queue where claim_id is null"
    with working(app, stage.dsn, concurrency=2):
        until(lambda: gate.inside == 2, "both slots are taken")
        until(lambda: stage.one(ready) > 0, "more is ready")
        assert stage.one(claimed) == 2
        gate.open()
        ended = until_ended(stage, ids)
    # Nor claimed and given back again.
    assert [statuses(lines) for lines in ended] == [[(1, "succeeded")]] * 30


def test_a_line_that_does_not_move_is_given_back_unharmed(stage: Stage) -> None:
    app, gate = App(), Gate()
    app.task("slow")(gate)
    app.task("fast")(lambda task: None)
    with working(app, stage.dsn, concurrency=2):
        # Fast ones first, so that the worker claims ahead.
        until_ended(stage, enqueue(stage, "fast", 500))
        slow = enqueue(stage, "slow", 40)
        released = "select count(distinct task_id) from orchestrator.task_attempt where status = %s"
        until(lambda: stage.one(released, "released") > 0, "tasks in line are given back")
        gate.open()
        ended = until_ended(stage, slow)
    assert all(lines[-1][:2] == (1, "succeeded") for lines in ended)
    assert sorted(gate.started) == slow


def test_a_lease_is_extended_for_as_long_as_its_task_runs(stage: Stage) -> None:
    app, gate = App(), Gate()
    app.task("x")(gate)
    (task_id,) = enqueue(stage, "x")
    with working(app, stage.dsn, lease_s=1):
        until(lambda: gate.inside == 1, "the task runs")
        first = stage.one("select expires_at from orchestrator.lease")
        longer = "select max(expires_at) > %s + interval '1.2 seconds' from orchestrator.lease"
        until(lambda: stage.one(longer, first), "the lease outlives its first end")
        gate.open()
        (lines,) = until_ended(stage, [task_id])
    assert statuses(lines) == [(1, "succeeded")]


def test_stopping_gives_back_what_has_not_started(stage: Stage) -> None:
    app, gate = App(), Gate()
    app.task("slow")(gate)
    app.task("fast")(lambda task: None)
    yielding = threading.Event()

    @app.task("patient")
    def patient(task: Task) -> None:
        gate.enter(task)
        until(lambda: task.should_yield, "the worker stops")
        yielding.set()
        gate.leave()

    with working(app, stage.dsn, concurrency=1) as running:
        until_ended(stage, enqueue(stage, "fast", 300))
        (first,) = enqueue(stage, "patient")
        until(lambda: gate.inside == 1, "the slot is taken")
        waiting = enqueue(stage, "slow", 40)
        in_line = "select count(*) from orchestrator.task_queue where claim_id is not null"
        until(lambda: stage.one(in_line) > 1, "tasks wait in line")
        running.stop()
    assert yielding.is_set()
    assert history(stage, first)[-1].status == "succeeded"
    given_back = [line for task_id in waiting for line in history(stage, task_id)]
    assert given_back
    assert {line.status for line in given_back} == {"released"}
    costs = "select distinct cost_us from orchestrator.task_attempt where status = %s"
    assert stage.rows(costs, "released") == [(0,)]
    assert stage.one("select count(*) from orchestrator.lease") == 0
    assert gate.started == [first]
    with working(app, stage.dsn):
        gate.open()
        ended = until_ended(stage, waiting)
    assert {lines[-1][:2] for lines in ended} == {(1, "succeeded")}


def test_a_running_task_is_finished_and_acknowledged_before_the_worker_ends(stage: Stage) -> None:
    app, gate = App(), Gate()
    app.task("sync")(gate)
    app.task("async")(gate.pass_async)
    ids = enqueue(stage, "sync") + enqueue(stage, "async")
    with working(app, stage.dsn) as running:
        until(lambda: gate.inside == 2, "both tasks run")
        running.worker.stop()
        gate.open()
        running.join()
    assert [statuses(history(stage, task_id)) for task_id in ids] == [[(1, "succeeded")]] * 2


def test_after_the_drain_timeout_coroutines_are_given_back_and_threads_left(stage: Stage) -> None:
    app, gate = App(), Gate()
    app.task("sync")(gate)
    cleaned = threading.Event()

    @app.task("async")
    async def handler(task: Task) -> None:
        try:
            await gate.pass_async(task)
        finally:
            cleaned.set()

    (left,) = enqueue(stage, "sync")
    (given_back,) = enqueue(stage, "async")
    with working(app, stage.dsn, drain_timeout_s=0) as running:
        until(lambda: gate.inside == 2, "both tasks run")
        running.stop()
    assert cleaned.is_set()
    assert statuses(history(stage, given_back)) == [(1, "released")]
    assert history(stage, left) == []
    held = (
        "select count(*) from orchestrator.task_queue where task_id = %s and claim_id is not null"
    )
    assert stage.one(held, left) == 1
    gate.open()


def test_stopping_before_the_start_is_stopping(stage: Stage) -> None:
    app = App()
    app.task("x")(lambda task: None)
    worker = Worker(app, stage.dsn, settings())
    worker.stop()
    Running(worker).stop()


def test_many_tasks_are_acknowledged_in_few_statements(stage: Stage) -> None:
    app = App()
    app.task("x")(lambda task: None)
    ids = enqueue(stage, "x", 1000)
    with working(app, stage.dsn):
        until_ended(stage, ids)
    flushes = stage.one("select count(distinct xid) from orchestrator.task_attempt where final")
    assert flushes < 100
    assert stage.one("select count(*) from orchestrator.lease") == 0


def test_one_result_does_not_wait_for_others(stage: Stage) -> None:
    app = App()
    app.task("x")(lambda task: None)
    with working(app, stage.dsn, ack_batch=500, ack_linger_s=0.005):
        until_ended(stage, enqueue(stage, "x"))


def test_queues_are_served_in_turn(stage: Stage) -> None:
    stage.do("insert into orchestrator.queue (name) values ('second')")
    second = stage.one("select id from orchestrator.queue where name = 'second'")
    app = App()
    order: list[str] = []

    @app.task("x")
    def handler(task: Task) -> None:
        order.append(task.queue)

    flood = enqueue(stage, "x", 300)
    few = enqueue(stage, "x", 10, queue=second)
    ready = "select count(*) from orchestrator.task_queue where queue = %s"
    until(lambda: stage.one(ready, second) == 10, "both queues are ready", patience_s=30)
    with working(app, stage.dsn, queues=["default", "second", "default"], concurrency=1):
        until_ended(stage, flood + few)
    assert order.index("second") < 50


def test_a_queue_in_trouble_troubles_no_other(stage: Stage) -> None:
    stage.do("insert into orchestrator.queue (name) values ('broken')")
    broken = stage.one("select id from orchestrator.queue where name = 'broken'")
    app = App()
    app.task("x")(lambda task: None)
    with working(app, stage.dsn, queues=["broken", "default"]):
        until_ended(stage, enqueue(stage, "x"))
        stage.do(f"alter sequence orchestrator.floor_{broken} rename to away")
        until_ended(stage, enqueue(stage, "x", 50))
        stage.do(f"alter sequence orchestrator.away rename to floor_{broken}")
        until_ended(stage, enqueue(stage, "x", queue=broken))


def test_a_lost_task_runs_alone(stage: Stage) -> None:
    app = App()
    lock = threading.Lock()
    inside: set[int] = set()
    beside: dict[int, set[int]] = {}

    @app.task("x")
    def handler(task: Task) -> None:
        with lock:
            for other in inside:
                beside[other].add(task.id)
            beside[task.id] = set(inside)
            inside.add(task.id)
        threading.Event().wait(0.02)
        with lock:
            inside.discard(task.id)

    suspects = enqueue(stage, "x", 3)
    ready = "select count(*) from orchestrator.task_queue where claim_id is null"
    until(lambda: stage.one(ready) == 3, "they are ready")
    assert len(claim(stage.db, 3, lease_s=0.01)) == 3
    for task_id in suspects:
        until_logged(stage, task_id, "lost")
    others = enqueue(stage, "x", 30)
    with working(app, stage.dsn, concurrency=5):
        ended = until_ended(stage, suspects + others)
    assert {task_id: beside[task_id] for task_id in suspects} == {
        task_id: set() for task_id in suspects
    }
    assert any(beside[task_id] for task_id in others)
    assert [lines[-1][:2] for lines in ended] == [(2, "succeeded")] * 3 + [(1, "succeeded")] * 30


def test_an_app_without_handlers_is_refused(stage: Stage) -> None:
    with pytest.raises(ConfigError, match="no handlers"):
        Worker(App(), stage.dsn, settings()).run()


def test_an_unknown_queue_is_refused(stage: Stage) -> None:
    app = App()
    app.task("x")(lambda task: None)
    with pytest.raises(UnknownQueue, match="no queue 'nowhere'"):
        Worker(app, stage.dsn, settings(), queues=["nowhere"]).run()


def test_a_database_that_does_not_answer_is_named(stage: Stage) -> None:
    app = App()
    app.task("x")(lambda task: None)
    dsn = psycopg.conninfo.make_conninfo(stage.dsn, dbname="nowhere")
    with pytest.raises(DatabaseUnavailable, match="did not answer"):
        Worker(app, dsn, settings()).run()


def test_a_broken_part_ends_the_worker(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(self: Heartbeat) -> None:
        raise LookupError("a mistake of ours")

    monkeypatch.setattr(Heartbeat, "_beat", break_down)
    app = App()
    app.task("x")(lambda task: None)
    with pytest.raises(LookupError, match="a mistake of ours"):
        Worker(app, stage.dsn, settings()).run()


def test_waking_threads_never_run_a_task_twice(stage: Stage) -> None:
    app = App()
    seen: list[int] = []
    app.task("sync")(lambda task: seen.append(task.id))

    @app.task("async")
    async def handler(task: Task) -> None:
        seen.append(task.id)

    ids: list[int] = []
    for kind in ("sync", "async") * 5:
        ids += enqueue(stage, kind, 100)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with working(app, stage.dsn, concurrency=8):
            until_ended(stage, ids)
    finally:
        sys.setswitchinterval(interval)
    assert sorted(seen) == sorted(ids)
