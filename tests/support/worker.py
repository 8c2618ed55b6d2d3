"""Workers for tests, in a thread of the test or in a process, and what became of their tasks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.config import Settings, WorkerSettings
from orchestrator.model import TaskSpec
from orchestrator.store import staging
from orchestrator.store.sql import run
from orchestrator.worker.app import App
from orchestrator.worker.worker import Worker
from tests.support.stage import Stage
from tests.support.waiting import PATIENCE_S, until

ROOT = Path(__file__).parents[2]


class Line(NamedTuple):
    """One line of a task's history."""

    attempt: int
    status: str
    final: bool
    error: str | None


class Running:
    """A worker in a thread of the test."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="worker under test")
        self._thread.start()

    def _run(self) -> None:
        try:
            self.worker.run()
        except BaseException as error:  # noqa: BLE001 - raised again by `stop`
            self.error = error

    def stop(self) -> None:
        """Stop the worker, wait until `run` has returned, and raise what it raised."""
        self.worker.stop()
        self.join()
        if self.error is not None:
            raise self.error

    def join(self) -> None:
        """Wait until `run` has returned."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the worker did not stop"


def settings(**fields: Any) -> Settings:
    """Return the defaults with these settings of the worker."""
    return Settings(worker=WorkerSettings(**fields))


@contextmanager
def working(
    app: App,
    dsn: str,
    *,
    queues: Sequence[str] | None = None,
    concurrency: int | None = None,
    **fields: Any,
) -> Iterator[Running]:
    """Run a worker in a thread; at the end it is stopped, if it still runs."""
    worker = Worker(app, dsn, settings(**fields), queues=queues, concurrency=concurrency)
    running = Running(worker)
    try:
        yield running
    finally:
        running.stop()


@contextmanager
def process(script: str, *args: str) -> Iterator[subprocess.Popen[str]]:
    """Run a script of the worker's process; it is killed at the end, if it still runs."""
    child = subprocess.Popen(
        [sys.executable, "-c", script, *args],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def enqueue(
    stage: Stage, name: str, count: int = 1, *, payload: Any = None, queue: int = 1, **fields: Any
) -> list[int]:
    """Stage `count` tasks of this name; return their ids."""
    specs = [TaskSpec(name=name, org=fields.pop("org", "a"), **fields)] * count
    operation = staging.enqueue(queue, specs, [json.dumps(payload)] * count)
    with stage.db.transaction():
        stored = run(stage.db, operation)
    return [task.id for task in stored]


def history(stage: Stage, task_id: int) -> list[Line]:
    """Return what happened to a task."""
    rows = stage.rows(
        "select attempt, status, final, error from orchestrator.task_attempt"
        " where task_id = %s order by ended_at, attempt",
        task_id,
    )
    return [Line(*row) for row in rows]


def until_ended(stage: Stage, task_ids: Sequence[int]) -> list[list[Line]]:
    """Wait until every task has ended; return their histories."""

    def ended() -> bool:
        found = stage.one(
            "select count(distinct task_id) from orchestrator.task_attempt"
            " where final and task_id = any (%s)",
            list(task_ids),
        )
        return bool(found == len(set(task_ids)))

    until(ended, "every task has ended")
    return [history(stage, task_id) for task_id in task_ids]


def until_logged(stage: Stage, task_id: int, status: str) -> Line:
    """Wait until an attempt of a task has ended like this; return its line."""

    def found() -> list[Line]:
        return [line for line in history(stage, task_id) if line.status == status]

    return until(found, f"an attempt of task {task_id} is {status}")[-1]


def until_no_lease(stage: Stage) -> None:
    """Wait until no lease is left: one that a beat moved while its last task ended is the
    reaper's.
    """
    until(lambda: stage.one("select count(*) = 0 from orchestrator.lease"), "no lease is left")


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that waits to be reaped does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
