"""Cancel and retry, one statement at a time: what each place of a task means for them."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest

from orchestrator import Client
from orchestrator.errors import IdempotencyConflict, TaskNotFound, TaskUnfinished
from orchestrator.model import AttemptStatus, CancelOutcome, Place, TaskInfo
from orchestrator.store import batch, tasks
from orchestrator.store.queue import lift, promote
from orchestrator.store.sql import Call, Operation, run
from tests.support.invariants import check
from tests.support.stage import Stage
from tests.support.stepping import (
    SteppedLeader,
    ack,
    cancel,
    claim,
    extend,
    give_back,
    reap,
    retry,
)
from tests.support.waiting import PATIENCE_S

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
STATIONS = ["staged", "scheduled", "ready"]


def get(stage: Stage, task_id: int) -> TaskInfo:
    info: TaskInfo = run(stage.db, tasks.get(task_id))
    return info


def place_task(stage: Stage, leader: SteppedLeader, station: str) -> int:
    """Return a task that waits at `station`."""
    delay = 3600 if station == "scheduled" else None
    (task_id,) = stage.enqueue(1, delay=delay, idempotency_key="k")
    if station == "ready":
        assert leader.drain_ticks() == 1
    return task_id


def test_a_caller_who_stops_amidst_a_cancellation_does_not_hold_up_the_leader(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, go_on = threading.Event(), threading.Event()
    whole = tasks.cancel

    def halting(task_id: int, *, reason: str) -> Operation:
        asking = whole(task_id, reason=reason)
        request = next(asking)
        try:
            while True:
                answer = yield request
                assert isinstance(request, Call)
                if request.statement == tasks.SQL["cancel_waiting"]:
                    stopped.set()
                    assert go_on.wait(PATIENCE_S)
                request = asking.send(answer)
        except StopIteration as done:
            return done.value

    monkeypatch.setattr(tasks, "cancel", halting)
    leader, (unwanted, _) = stage.leader(), stage.enqueue(2)
    with Client(stage.dsn) as client:
        cancelling = stage.start(client.cancel, unwanted)
        try:
            assert stopped.wait(PATIENCE_S)
            assert stage.start(leader.tick).result(PATIENCE_S).admitted == 1
        finally:
            go_on.set()
        assert cancelling.result(PATIENCE_S) is CancelOutcome.CANCELLED
    check(stage.db)


@pytest.mark.parametrize("station", STATIONS)
def test_a_waiting_task_is_cancelled_at_once_and_frees_its_key_and_slot(
    stage: Stage, station: str
) -> None:
    leader = stage.leader()
    task_id = place_task(stage, leader, station)
    assert cancel(stage.db, task_id) is CancelOutcome.CANCELLED
    assert cancel(stage.db, task_id) is CancelOutcome.ENDED
    info = get(stage, task_id)
    assert (info.place, info.status) == (Place.ENDED, AttemptStatus.CANCELLED)
    assert stage.one("select count(*) from orchestrator.idempotency_key") == 0
    leader.drain_ticks()
    assert (leader.scheduler.in_flight, leader.scheduler.backlog) == (0, 0)
    assert claim(stage.db, 1) == []
    check(stage.db)


@pytest.mark.parametrize("ending", ["nack", "release", "reap"])
def test_a_running_task_that_was_cancelled_never_waits_again(stage: Stage, ending: str) -> None:
    leader = stage.leader()
    task_id = place_task(stage, leader, "ready")
    (held,) = claim(stage.db, 1)
    assert cancel(stage.db, task_id) is CancelOutcome.REQUESTED
    # Said twice is said once; the worker hears of it at its next heartbeat.
    assert cancel(stage.db, task_id) is CancelOutcome.REQUESTED
    (heard,) = extend(stage.db, [held])
    assert heard.cancelled == {held.dispatch_key}
    assert stage.one("select cancelled from orchestrator.lease") == [held.dispatch_key]
    if ending == "reap":
        stage.expire_leases()
        assert reap(stage.db) == [(task_id, AttemptStatus.CANCELLED)]
    else:
        status = AttemptStatus.FAILED if ending == "nack" else AttemptStatus.RELEASED
        verdicts = give_back(stage.db, [held], status)
        assert verdicts == {held.dispatch_key: AttemptStatus.CANCELLED}
    assert get(stage, task_id).status is AttemptStatus.CANCELLED
    assert stage.one("select count(*) from orchestrator.idempotency_key") == 0
    assert leader.drain_ticks() == 0
    assert leader.scheduler.in_flight == 0
    check(stage.db)


def test_a_running_task_that_finishes_in_spite_of_a_cancellation_has_succeeded(
    stage: Stage,
) -> None:
    leader = stage.leader()
    task_id = place_task(stage, leader, "ready")
    held = claim(stage.db, 1)
    cancel(stage.db, task_id)
    assert len(ack(stage.db, held)) == 1
    assert get(stage, task_id).status is AttemptStatus.SUCCEEDED
    assert cancel(stage.db, task_id) is CancelOutcome.ENDED


def test_of_a_batch_only_the_cancelled_task_is_told_of(stage: Stage) -> None:
    leader = stage.leader()
    stage.enqueue(3)
    leader.drain_ticks()
    held = claim(stage.db, 3)
    cancel(stage.db, held[1].id)
    verdicts = give_back(stage.db, held, AttemptStatus.RELEASED)
    assert verdicts == {
        held[0].dispatch_key: AttemptStatus.RELEASED,
        held[1].dispatch_key: AttemptStatus.CANCELLED,
        held[2].dispatch_key: AttemptStatus.RELEASED,
    }


def test_what_is_not_there_can_be_neither_cancelled_nor_retried(stage: Stage) -> None:
    with pytest.raises(TaskNotFound):
        cancel(stage.db, 12345)
    with pytest.raises(TaskNotFound):
        retry(stage.db, 12345)


# Retry -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("station", [*STATIONS, "claimed"])
def test_an_unfinished_task_is_not_retried(stage: Stage, station: str) -> None:
    leader = stage.leader()
    task_id = place_task(stage, leader, "ready" if station == "claimed" else station)
    if station == "claimed":
        claim(stage.db, 1)
    with pytest.raises(TaskUnfinished, match=station):
        retry(stage.db, task_id)
    check(stage.db)


def test_a_dead_letter_is_replayed_with_fresh_attempts(stage: Stage) -> None:
    leader = stage.leader()
    (task_id,) = stage.enqueue(1, max_attempts=2, idempotency_key="k")
    for turn in range(2):
        for attempt in (1, 2):
            leader.drain_ticks()
            (held,) = claim(stage.db, 1)
            assert (held.id, held.attempt) == (task_id, attempt)
            give_back(stage.db, [held])
        assert get(stage, task_id).status is AttemptStatus.DEAD
        if turn == 0:
            retry(stage.db, task_id)
            # The key is taken again: the same request finds this task.
            assert stage.enqueue(1, idempotency_key="k", max_attempts=2) == [task_id]
    assert len(get(stage, task_id).history) == 4
    check(stage.db)


def test_a_retry_whose_key_another_task_holds_by_now_is_refused(stage: Stage) -> None:
    (task_id,) = stage.enqueue(1, idempotency_key="k")
    cancel(stage.db, task_id)
    (other,) = stage.enqueue(1, idempotency_key="k")
    assert other != task_id
    with pytest.raises(IdempotencyConflict):
        retry(stage.db, task_id)
    cancel(stage.db, other)
    retry(stage.db, task_id)
    check(stage.db)


def test_a_retried_task_can_be_cancelled_and_retried_again(stage: Stage) -> None:
    (task_id,) = stage.enqueue(1)
    for _ in range(3):
        assert cancel(stage.db, task_id) is CancelOutcome.CANCELLED
        retry(stage.db, task_id)
    leader = stage.leader()
    assert leader.drain_ticks() == 1
    ack(stage.db, claim(stage.db, 1))
    leader.tick()
    assert leader.scheduler.in_flight == 0


# Tasks that the age bound has lifted -------------------------------------------------------------


def lifted(stage: Stage) -> int:
    """Return a staged task of priority 3 that waited too long and stands first in its flow."""
    (task_id,) = stage.enqueue(1, priority=3)
    aged = "update orchestrator.task set created_at = created_at - interval '1 hour' where id = %s"
    stage.do(aged, task_id)
    assert run(stage.db, lift(1, max_wait_s=60, limit=10)) == 1
    return task_id


def test_a_lifted_task_goes_first_and_is_found_by_its_id(stage: Stage) -> None:
    leader = stage.leader()
    before = stage.enqueue(2, priority=10)
    task_id = lifted(stage)
    assert get(stage, task_id).place is Place.STAGED
    stage.set_queue(ready_max=1)
    leader.tick()
    assert [c.id for c in claim(stage.db, 5)] == [task_id]
    leader.drain_ticks()
    assert [c.id for c in claim(stage.db, 5)] == before[:1]


@pytest.mark.parametrize("ending", ["nack", "nack with delay", "reap"])
def test_a_lifted_task_that_is_tried_again_is_still_found_by_its_id(
    stage: Stage, ending: str
) -> None:
    leader = stage.leader()
    task_id = lifted(stage)
    leader.drain_ticks()
    held = claim(stage.db, 1)
    if ending == "reap":
        stage.expire_leases()
        reap(stage.db)
    else:
        give_back(stage.db, held, delay_s=3600 if "delay" in ending else 0)
    if "delay" in ending:
        stage.do("update orchestrator.scheduled_queue set run_at = clock_timestamp()")
        run(stage.db, promote(1, since=LONG_AGO, limit=10))
    assert get(stage, task_id).place is Place.STAGED
    assert cancel(stage.db, task_id) is CancelOutcome.CANCELLED


@pytest.mark.parametrize("many", [False, True], ids=["one", "in a batch"])
def test_a_lifted_task_that_waits_again_is_not_retried_into_a_second_place(
    stage: Stage, many: bool
) -> None:
    leader = stage.leader()
    task_id = lifted(stage)
    cancel(stage.db, task_id)
    # It has ended once; now it waits again, was lifted again, and failed.
    retry(stage.db, task_id)
    assert run(stage.db, lift(1, max_wait_s=60, limit=10)) == 1
    leader.drain_ticks()
    give_back(stage.db, claim(stage.db, 1))
    if many:
        with stage.db.transaction():
            assert run(stage.db, batch.retry(1, [task_id])) == set()
    else:
        with pytest.raises(TaskUnfinished):
            retry(stage.db, task_id)
    check(stage.db)
