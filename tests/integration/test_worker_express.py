"""A worker keeps slots for express work: they are free for it whatever else there is to do.

Nobody leads here, but in the last test: tasks stand ready by hand, and polling finds them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from orchestrator.worker import fetcher, source
from orchestrator.worker.app import App, Task
from tests.support.ready import put_ready
from tests.support.stage import Stage
from tests.support.waiting import PATIENCE_S, until
from tests.support.worker import Running, enqueue, until_ended, working

CLAIMED = "select count(*) from orchestrator.task_queue where claim_id is not null"


class Gate:
    """Handlers that let nobody out before the gate is opened, by the kind of their work."""

    def __init__(self) -> None:
        self.app = App()
        self._lock = threading.Lock()
        self._open = threading.Event()
        self.inside: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self.app.task("sync")(self._sync)
        self.app.task("async")(self._async)
        self.app.task("fast")(lambda task: None)

        @self.app.task("fast async")
        async def fast(task: Task) -> None:
            pass

    def _enter(self, task: Task) -> None:
        with self._lock:
            count = self.inside.get(task.workload, 0) + 1
            self.inside[task.workload] = count
            self.most[task.workload] = max(count, self.most.get(task.workload, 0))

    def _leave(self, task: Task) -> None:
        with self._lock:
            self.inside[task.workload] -= 1

    def _sync(self, task: Task) -> None:
        self._enter(task)
        assert self._open.wait(PATIENCE_S)
        self._leave(task)

    async def _async(self, task: Task) -> None:
        self._enter(task)
        await asyncio.get_running_loop().run_in_executor(None, self._open.wait, PATIENCE_S)
        self._leave(task)

    def until_inside(self, main: int = 0, express: int = 0) -> None:
        """Wait until so many handlers of either lane wait at the gate."""

        def full() -> bool:
            return self.inside.get("etl", 0) == main and self.inside.get("api", 0) == express

        until(full, f"{main} ordinary and {express} express handlers run, not {self.inside}")

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


@pytest.fixture(autouse=True)
def _express(stage: Stage) -> None:
    stage.do("update orchestrator.workload set express = true where name = 'api'")


@contextmanager
def serving(gate: Gate, stage: Stage, concurrency: int, **fields: Any) -> Iterator[Running]:
    """Run a worker that polls often, and open the gate before it is stopped."""
    fields.setdefault("poll_max_s", 0.05)
    with working(gate.app, stage.dsn, concurrency=concurrency, **fields) as running:
        try:
            yield running
        finally:
            gate.open()


def claimed_ordinary(stage: Stage) -> int:
    return int(stage.one(CLAIMED + " and not reserved"))


@pytest.mark.parametrize("express", ["fast", "fast async"])
@pytest.mark.parametrize("ordinary", ["sync", "async"])
@pytest.mark.parametrize(("concurrency", "kept"), [(2, 1), (10, 1), (20, 2)])
def test_express_work_runs_while_every_ordinary_slot_is_blocked(
    stage: Stage, gate: Gate, ordinary: str, express: str, concurrency: int, kept: int
) -> None:
    put_ready(stage, 30, name=ordinary)
    with serving(gate, stage, concurrency):
        gate.until_inside(main=concurrency - kept)
        for _ in range(3):
            until_ended(stage, put_ready(stage, 5, name=express, express=True))
        # Nor was more ordinary work claimed than there are slots for it.
        assert claimed_ordinary(stage) == concurrency - kept
    assert gate.most["etl"] == concurrency - kept


def test_express_work_may_use_any_slot(stage: Stage, gate: Gate) -> None:
    put_ready(stage, 30, name="sync", express=True)
    with serving(gate, stage, 10):
        gate.until_inside(express=10)


def test_ordinary_work_runs_beside_express_work_in_the_slots_that_are_left(
    stage: Stage, gate: Gate
) -> None:
    put_ready(stage, 4, name="async", express=True)
    put_ready(stage, 20, name="sync")
    with serving(gate, stage, 10):
        gate.until_inside(main=6, express=4)
        assert claimed_ordinary(stage) == 6


def test_the_kept_slots_are_not_lent_while_there_is_no_express_work(
    stage: Stage, gate: Gate
) -> None:
    stage.set_queue(capacity=20, express_reserve=8)
    put_ready(stage, 20, name="sync")
    with serving(gate, stage, 10):
        gate.until_inside(main=6)
        put_ready(stage, 20, name="sync", express=True)
        gate.until_inside(main=6, express=4)


def no_express_workload(stage: Stage) -> None:
    stage.do("update orchestrator.workload set express = false")


def no_reserve(stage: Stage) -> None:
    stage.set_queue(express_reserve=0)


@pytest.mark.parametrize("setting", [no_express_workload, no_reserve])
def test_without_express_work_or_reserve_every_slot_is_for_everybody(
    stage: Stage, gate: Gate, setting: Callable[[Stage], None]
) -> None:
    setting(stage)
    put_ready(stage, 20, name="sync")
    with serving(gate, stage, 10):
        gate.until_inside(main=10)


def test_the_last_slot_is_never_kept(stage: Stage, gate: Gate) -> None:
    stage.set_queue(capacity=5, express_reserve=5)
    put_ready(stage, name="sync")
    with serving(gate, stage, 1):
        gate.until_inside(main=1)
        gate.open()
        until_ended(stage, put_ready(stage, 3, name="fast", express=True))
        until_ended(stage, put_ready(stage, 3, name="fast"))


def test_work_claimed_ahead_never_stands_before_express_work(
    stage: Stage, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher, "LINE_MAX_S", 1000.0)
    with serving(gate, stage, 2):
        # Fast ones first, so that the worker claims ahead.
        until_ended(stage, put_ready(stage, 500, name="fast"))
        put_ready(stage, 40, name="sync")
        gate.until_inside(main=1)
        until(lambda: claimed_ordinary(stage) > 5, "ordinary tasks wait in line")
        for name in ("fast", "fast async"):
            until_ended(stage, put_ready(stage, 5, name=name, express=True))
        assert gate.inside == {"etl": 1}


def test_express_work_that_does_not_move_is_given_back_and_ordinary_work_kept(
    stage: Stage, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher, "LINE_MAX_S", 0.05)
    with serving(gate, stage, 2):
        until_ended(stage, put_ready(stage, 500, name="fast", express=True))
        put_ready(stage, 1, name="sync")
        gate.until_inside(main=1)
        put_ready(stage, 40, name="sync", express=True)
        released = "select count(*) from orchestrator.task_attempt where status = %s"
        until(lambda: stage.one(released, "released") > 0, "the express line is given back")
        assert claimed_ordinary(stage) == 1
        assert stage.one("select max(cost_us) from orchestrator.task_attempt where not final") == 0


def test_a_slot_that_falls_free_is_filled_at_once_while_the_worker_waits_for_express_work(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher, "_CHECK_S", 1000.0)
    app = App()

    @app.task("t")
    def handler(task: Task) -> None:
        # Long enough for the fetcher to go to sleep, for ever as far as polls go.
        threading.Event().wait(0.02)

    tasks = put_ready(stage, 25)
    with working(app, stage.dsn, concurrency=2, poll_max_s=1000):
        until_ended(stage, tasks)


def test_what_is_kept_is_read_again_from_time_to_time(
    stage: Stage, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "_LEARN_S", 0.02)
    no_express_workload(stage)
    with serving(gate, stage, 10) as running:
        until_ended(stage, put_ready(stage, 5, name="fast"))
        buffer = running.worker._buffer
        assert buffer.reserve == 0
        stage.do("update orchestrator.workload set express = true where name = 'api'")
        until(lambda: buffer.reserve == 1, "the worker has learned of express work")
        put_ready(stage, 20, name="sync")
        gate.until_inside(main=9)
        no_express_workload(stage)
        gate.until_inside(main=10)


def test_express_tasks_in_line_run_on_when_nothing_is_kept_any_more(
    stage: Stage, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "_LEARN_S", 0.02)
    with serving(gate, stage, 4) as running:
        until_ended(stage, put_ready(stage, 500, name="fast", express=True))
        tasks = put_ready(stage, 50, name="sync", express=True)
        gate.until_inside(express=4)
        no_express_workload(stage)
        until(lambda: running.worker._buffer.reserve == 0, "it has learned")
        gate.open()
        until_ended(stage, tasks)


@pytest.mark.usefixtures("replica")
def test_from_enqueue_to_end_express_work_passes_blocked_work_of_every_org(
    stage: Stage, gate: Gate
) -> None:
    for org in ("a", "b", "c"):
        enqueue(stage, "sync", 30, org=org)
    with serving(gate, stage, 10, poll_max_s=1000):
        gate.until_inside(main=9)
        # Only a notification tells of them.
        for org in ("a", "d", "b"):
            until_ended(stage, enqueue(stage, "fast", 3, org=org, workload="api"))
        assert gate.inside == {"etl": 9}
