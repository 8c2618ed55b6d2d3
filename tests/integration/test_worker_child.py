"""The process of a handler with a timeout, as a thread of the worker uses it: what is meant for one
task never reaches the next.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from multiprocessing.context import SpawnProcess
from uuid import uuid4

import pytest

from orchestrator.model import Claim
from orchestrator.worker.app import Discard
from orchestrator.worker.errortext import AttemptFailed
from orchestrator.worker.job import Job
from orchestrator.worker.leases import Lease
from orchestrator.worker.process import Child
from orchestrator.worker.threads import attempt
from tests.support.worker_handlers import app


@pytest.fixture
def child() -> Iterator[Child]:
    opened = Child()
    yield opened
    opened.close()


def job(name: str, *, timeout_s: float = 60.0) -> Job:
    claim = Claim(
        7, name, "{}", "a", "default", "api", 5, 1, 5, uuid4(), datetime.now(UTC), 70, timeout_s
    )
    return Job(claim, app.handlers[name], Lease(claim.claim_id, 1, 1, 0.0), time.monotonic())


def test_who_is_told_to_end_after_it_has_ended_takes_nobody_along(child: Child) -> None:
    """The heartbeat asks what runs, and tells it; a task may have ended in between."""
    ended, following = job("discard"), job("discard")
    assert attempt(ended, child).status == "discarded"
    ended.cancel()
    ended.stop()
    assert attempt(following, child).status == "discarded"
    following.cancel()
    assert child.run(job("discard")) == Discard("nobody wants it")


@pytest.mark.parametrize("tell", [Job.cancel, Job.stop])
def test_who_is_told_to_end_while_its_process_starts_is_ended(
    child: Child, monkeypatch: pytest.MonkeyPatch, tell: Callable[[Job], None]
) -> None:
    waiting = job("wait", timeout_s=20)
    start = SpawnProcess.start

    def starting(process: SpawnProcess) -> None:
        start(process)
        tell(waiting)

    with monkeypatch.context() as patched:
        patched.setattr(SpawnProcess, "start", starting)
        waiting.can_be_aborted_by(partial(child.kill, waiting))
        with pytest.raises(AttemptFailed, match="killed by SIGKILL"):
            child.run(waiting)
    assert child.run(job("do nothing")) is None


def test_a_timeout_of_months_is_one_and_the_next_task_gets_its_own_answer(child: Child) -> None:
    assert child.run(job("discard", timeout_s=3650 * 86_400)) == Discard("nobody wants it")
    assert child.run(job("do nothing")) is None


def test_an_answer_that_cannot_be_read_fails_its_task_alone(child: Child) -> None:
    with pytest.raises(AttemptFailed, match="its process failed: ValueError"):
        child.run(job("unreadable"))
    assert child.run(job("discard")) == Discard("nobody wants it")


def test_a_process_that_ended_between_two_tasks_is_replaced(child: Child) -> None:
    assert child.run(job("do nothing")) is None
    ended = child._process
    assert ended is not None
    ended.kill()
    ended.join()
    assert child.run(job("discard")) == Discard("nobody wants it")
