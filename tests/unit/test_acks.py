"""When ends are told at once, when they wait for company, and what becomes of a failed flush."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from orchestrator.config import WorkerSettings
from orchestrator.errors import DatabaseUnavailable
from orchestrator.model import AttemptStatus
from orchestrator.store.queue import Ending
from orchestrator.store.sql import Call, Operation
from orchestrator.worker.acks import Acks
from orchestrator.worker.leases import Lease, Leases
from orchestrator.worker.session import Session

PATIENCE_S = 10.0
EVER_S = 3600.0


class Told(Session):
    """Notes what it is asked to tell, and says that all of it was found."""

    def __init__(self) -> None:
        self.flushes: SimpleQueue[list[int]] = SimpleQueue()
        # Of each flush: whether it looks for tasks of a lease beside those that end.
        self.looked: list[bool] = []
        self.errors: list[Exception] = []

    def run(self, operation: Operation) -> Any:
        call = next(operation)
        assert isinstance(call, Call)
        keys = list(call.params["keys"])
        self.looked.append(b"not exists" in call.statement)
        self.flushes.put(keys)
        if self.errors:
            raise self.errors.pop(0)
        return set(keys)

    def close(self) -> None:
        pass


class Ends:
    """The acks, with a lease to end tasks of."""

    def __init__(self, tasks: int, *, linger_s: float) -> None:
        self.session = Told()
        self.leases = Leases()
        self.lease = Lease(uuid4(), 1, tasks, EVER_S)
        self.leases.add(self.lease)
        settings = WorkerSettings.model_construct(ack_batch=2, ack_linger_s=linger_s)
        self.acks = Acks(self.session, self.leases, settings, worker="w")
        self.failed: list[Exception] = []

    def put(self, key: int) -> None:
        ending = Ending(key, self.lease.claim_id, AttemptStatus.SUCCEEDED)
        self.acks.put(self.lease, ending)

    def told(self) -> list[int]:
        return self.session.flushes.get(timeout=PATIENCE_S)


@contextmanager
def running(ends: Ends) -> Iterator[None]:
    def run() -> None:
        try:
            ends.acks.run()
        except Exception as error:  # noqa: BLE001 - the tests look at it
            ends.failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ends.acks.stop(PATIENCE_S)
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_the_only_task_that_was_claimed_is_told_of_at_once() -> None:
    ends = Ends(1, linger_s=EVER_S)
    with running(ends):
        ends.put(1)
        assert ends.told() == [1]


def test_an_end_waits_while_another_may_come() -> None:
    ends = Ends(2, linger_s=EVER_S)
    with running(ends):
        ends.put(1)
        ends.put(2)
        assert sorted(ends.told()) == [1, 2]
    assert ends.session.flushes.empty()


def test_an_end_waits_where_another_came_a_moment_before() -> None:
    ends = Ends(1, linger_s=EVER_S)
    with running(ends):
        ends.put(1)
        assert ends.told() == [1]
        ends.leases.add(lease := Lease(uuid4(), 1, 2, EVER_S))
        ends.lease = lease
        # All that was claimed has ended now, but within a linger of the first.
        lease.unfinished = 1
        ends.put(2)
        ends.put(3)
        assert sorted(ends.told()) == [2, 3]
    assert ends.session.flushes.empty()


def test_only_what_did_not_end_with_its_whole_lease_is_looked_for() -> None:
    ends = Ends(2, linger_s=0.0)
    with running(ends):
        ends.put(1)
        ends.told()
        ends.put(2)
        ends.told()
        ends.leases.add(lease := Lease(uuid4(), 1, 1, EVER_S))
        ends.lease = lease
        ends.put(3)
        ends.told()
    assert ends.session.looked == [True, True, False]


def test_two_leases_are_not_taken_for_whole_because_the_numbers_agree() -> None:
    ends = Ends(2, linger_s=EVER_S)
    other = Lease(uuid4(), 1, 2, EVER_S)
    # Of one the last task ends, of the other the first: two ends, and the one has two tasks.
    ends.lease.unfinished = 1
    ends.leases.add(other)
    ends.put(1)
    ends.lease = other
    ends.put(2)
    with running(ends):
        assert sorted(ends.told()) == [1, 2]
    assert ends.session.looked == [True]


def test_what_waits_is_told_when_the_worker_stops() -> None:
    ends = Ends(2, linger_s=EVER_S)
    with running(ends):
        ends.put(1)
    assert ends.told() == [1]


@pytest.mark.parametrize("error", [psycopg.OperationalError("lost"), DatabaseUnavailable("away")])
def test_a_flush_that_failed_is_sent_again_as_it_was(error: Exception) -> None:
    ends = Ends(1, linger_s=0.0)
    ends.session.errors = [error, error]
    with running(ends):
        ends.put(1)
        assert [ends.told() for _ in range(3)] == [[1]] * 3
    assert not ends.failed
    assert ends.leases.held() == {}


def test_an_error_that_is_not_the_databases_ends_the_acks() -> None:
    ends = Ends(1, linger_s=0.0)
    ends.session.errors = [error := ValueError("a mistake of ours")]
    with running(ends):
        ends.put(1)
        ends.told()
    assert ends.failed == [error]


def test_after_its_patience_a_flush_is_given_up() -> None:
    ends = Ends(1, linger_s=0.0)
    ends.session.errors = [error := DatabaseUnavailable("away")]
    ends.put(1)
    ends.acks.stop(-1.0)
    run: Callable[[], None] = ends.acks.run
    with pytest.raises(DatabaseUnavailable) as raised:
        run()
    assert raised.value is error
    assert ends.told() == [1]
    assert ends.session.flushes.empty()
