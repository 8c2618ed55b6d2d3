"""Leases: who holds one may end its tasks, who lost it may not; attempts count exactly."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from psycopg import Rollback

from orchestrator.model import AttemptStatus, Claim
from orchestrator.store import queue, sql
from orchestrator.store.queue import Ending
from orchestrator.store.sql import run
from tests.support.invariants import check
from tests.support.stage import Stage
from tests.support.stepping import (
    SteppedLeader,
    ack,
    cancel,
    claim,
    endings,
    extend,
    finish,
    give_back,
    reap,
)


def claimed(stage: Stage, leader: SteppedLeader, count: int = 1, **fields: object) -> list[Claim]:
    """Stage, admit and claim `count` tasks of one org in one claim call."""
    stage.enqueue(count, **fields)  # type: ignore[arg-type]
    assert leader.drain_ticks() == count
    claims = claim(stage.db, count)
    assert len(claims) == count
    return claims


def statuses(stage: Stage, task_id: int) -> list[tuple[str, bool, int]]:
    return stage.rows(
        "select status, final, attempt from orchestrator.task_attempt"
        " where task_id = %s order by ended_at",
        task_id,
    )


def leases(stage: Stage) -> int:
    return int(stage.one("select count(*) from orchestrator.lease"))


# Extending ---------------------------------------------------------------------------------------


def test_extend_moves_the_end_and_never_back(stage: Stage) -> None:
    (held,) = claimed(stage, stage.leader())
    (longer,) = extend(stage.db, [held], 300)
    assert longer.lease_expires_at - held.lease_expires_at > timedelta(minutes=4)
    (kept,) = extend(stage.db, [held], 1)
    assert kept.lease_expires_at == longer.lease_expires_at


def test_extend_never_revives_an_expired_lease(stage: Stage) -> None:
    leader = stage.leader()
    lost, held = claimed(stage, leader)[0], claimed(stage, leader)[0]
    stage.expire_leases([lost.claim_id])
    assert [e.claim_id for e in extend(stage.db, [lost, held])] == [held.claim_id]
    # Neither before nor after the task was taken back.
    assert reap(stage.db) == [(lost.id, AttemptStatus.LOST)]
    assert extend(stage.db, [lost]) == []


# Acknowledging -----------------------------------------------------------------------------------


def test_a_late_ack_is_accepted_while_its_claim_stands(stage: Stage) -> None:
    (late,) = claimed(stage, stage.leader())
    stage.expire_leases()
    assert ack(stage.db, [late]) == {late.dispatch_key}
    assert statuses(stage, late.id) == [("succeeded", True, 1)]
    assert reap(stage.db) == []
    assert leases(stage) == 0


def test_a_lease_that_a_beat_moves_meanwhile_is_left_to_the_reaper(stage: Stage) -> None:
    (held,) = claimed(stage, stage.leader())
    with stage.connect() as beating, beating.transaction():
        extend(beating, [held])
        # It waits for nobody: a beat that never ends must not keep an end from being told.
        assert ack(stage.db, [held]) == {held.dispatch_key}
    assert leases(stage) == 1
    stage.expire_leases()
    assert reap(stage.db) == []
    assert leases(stage) == 0


def test_an_ack_after_the_task_was_taken_back_ends_nothing(stage: Stage) -> None:
    leader = stage.leader()
    (late,) = claimed(stage, leader)
    stage.expire_leases()
    reap(stage.db)
    assert ack(stage.db, [late]) == set()
    leader.drain_ticks()
    (again,) = claim(stage.db, 1)
    assert (again.id, again.attempt) == (late.id, 2)
    assert ack(stage.db, [late]) == set()
    assert give_back(stage.db, [late]) == {}
    assert ack(stage.db, [again]) == {again.dispatch_key}
    assert statuses(stage, late.id) == [("lost", False, 1), ("succeeded", True, 2)]


def test_a_claim_id_of_somebody_else_ends_nothing(stage: Stage) -> None:
    (held,) = claimed(stage, stage.leader())
    forged = queue.Ending(held.dispatch_key, uuid4(), AttemptStatus.SUCCEEDED)
    assert run(stage.db, queue.finish(1, [forged], worker="test", closing=[held.claim_id])) == set()
    check(stage.db)
    assert ack(stage.db, [held]) == {held.dispatch_key}


@pytest.mark.parametrize("forged_first", [True, False])
def test_of_a_key_under_two_claim_ids_the_one_that_holds_ends_it(
    stage: Stage, forged_first: bool
) -> None:
    (held, other) = claimed(stage, stage.leader(), 2)
    forged = queue.Ending(held.dispatch_key, uuid4(), AttemptStatus.DISCARDED)
    true = [
        queue.Ending(each.dispatch_key, each.claim_id, AttemptStatus.SUCCEEDED)
        for each in (held, other)
    ]
    sent = [forged, *true] if forged_first else [*true, forged]
    ended = run(stage.db, queue.finish(1, sent, worker="test", closing=[held.claim_id]))
    assert ended == {held.dispatch_key, other.dispatch_key}
    assert [statuses(stage, each.id)[0][0] for each in (held, other)] == ["succeeded"] * 2
    assert leases(stage) == 0
    check(stage.db)


def test_servers_before_17_are_asked_key_by_key_and_answer_alike(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "_WALKS_ARRAYS", 10**9)
    leader = stage.leader()
    ids = stage.enqueue(4)
    leader.drain_ticks()
    quota = queue.Quota(4, 4, 4)
    taking = queue.take(1, "default", uuid4(), quota=quota, lease_s=30, worker="test", few=False)
    claims: list[Claim] = run(stage.db, taking)
    assert [(each.id, each.org, each.payload) for each in claims] == [(i, "a", {}) for i in ids]
    assert [each.dispatch_key for each in claims] == sorted(each.dispatch_key for each in claims)
    forged = queue.Ending(claims[0].dispatch_key, uuid4(), AttemptStatus.SUCCEEDED)
    assert run(stage.db, queue.finish(1, [forged], worker="test")) == set()
    assert ack(stage.db, claims[::-1]) == {each.dispatch_key for each in claims}
    assert leases(stage) == 0
    check(stage.db)


def test_partial_acks_keep_the_lease_until_the_last(stage: Stage) -> None:
    claims = claimed(stage, stage.leader(), 3)
    for left in (2, 1, 0):
        assert leases(stage) == 1
        ack(stage.db, claims[left : left + 1])
        check(stage.db)
    assert leases(stage) == 0


@pytest.mark.parametrize("alone", [True, False], ids=["the first of two", "the second of two"])
def test_whoever_ends_a_lease_as_a_whole_closes_it_only_where_nothing_of_it_stands(
    stage: Stage, alone: bool
) -> None:
    claims = claimed(stage, stage.leader(), 2)
    first, second = endings(claims, AttemptStatus.SUCCEEDED)

    def end(*ends: Ending) -> set[int]:
        ending = queue.finish(1, ends, worker="test", closing=[claims[0].claim_id], whole=True)
        ended: set[int] = run(stage.db, ending)
        return ended

    if alone:
        # It is mistaken: the lease has another task.
        assert end(first) == {first.dispatch_key}
        assert leases(stage) == 1
    else:
        # The other has ended before, so less went just now than was leased.
        run(stage.db, queue.finish(1, [first], worker="test"))
        assert end(first, second) == {second.dispatch_key}
        assert leases(stage) == 0
    check(stage.db)


def test_a_batch_that_ends_in_several_ways_closes_its_lease_with_the_last(stage: Stage) -> None:
    claims = claimed(stage, stage.leader(), 4)
    ack(stage.db, claims[:1])
    give_back(stage.db, claims[1:2], AttemptStatus.FAILED)
    give_back(stage.db, claims[2:3], AttemptStatus.RELEASED)
    assert leases(stage) == 1
    check(stage.db)
    ack(stage.db, claims[3:])
    assert leases(stage) == 0


# Giving back -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "attempt"),
    [(AttemptStatus.FAILED, 2), (AttemptStatus.RELEASED, 1), (AttemptStatus.SNOOZED, 1)],
)
def test_what_is_given_back_counts_only_where_it_failed(
    stage: Stage, status: AttemptStatus, attempt: int
) -> None:
    leader = stage.leader()
    (first,) = claimed(stage, leader)
    assert give_back(stage.db, [first], status) == {first.dispatch_key: status}
    assert leases(stage) == 0
    leader.drain_ticks()
    (second,) = claim(stage.db, 1)
    assert (second.id, second.attempt) == (first.id, attempt)


def test_a_delay_schedules_and_the_leader_promotes_when_due(stage: Stage) -> None:
    leader = stage.leader()
    (first,) = claimed(stage, leader)
    give_back(stage.db, [first], delay_s=3600)
    leader.step()
    assert stage.one("select attempt from orchestrator.scheduled_queue") == 1
    assert leader.scheduler.in_flight == 0
    stage.do("update orchestrator.scheduled_queue set run_at = clock_timestamp()")
    leader.step()
    leader.step()
    (second,) = claim(stage.db, 1)
    assert (second.id, second.attempt) == (first.id, 2)


@pytest.mark.parametrize("max_attempts", [1, 3])
def test_a_task_dead_letters_after_exactly_max_attempts_failures(
    stage: Stage, max_attempts: int
) -> None:
    leader = stage.leader()
    stage.enqueue(1, max_attempts=max_attempts, idempotency_key="k")
    for attempt in range(1, max_attempts + 1):
        leader.drain_ticks()
        (held,) = claim(stage.db, 1)
        assert held.attempt == attempt
        last = attempt == max_attempts
        verdict = AttemptStatus.DEAD if last else AttemptStatus.FAILED
        assert give_back(stage.db, [held]) == {held.dispatch_key: verdict}
    leader.drain_ticks()
    assert claim(stage.db, 1) == []
    assert [final for _, final, _ in statuses(stage, held.id)] == [False] * (max_attempts - 1) + [
        True
    ]
    assert stage.one("select count(*) from orchestrator.idempotency_key") == 0
    assert leader.scheduler.in_flight == 0
    check(stage.db)


@pytest.mark.parametrize("max_attempts", [1, 3])
def test_a_task_dead_letters_after_exactly_max_attempts_lost_leases(
    stage: Stage, max_attempts: int
) -> None:
    leader = stage.leader()
    stage.enqueue(1, max_attempts=max_attempts)
    for attempt in range(1, max_attempts + 1):
        leader.drain_ticks()
        (held,) = claim(stage.db, 1)
        # How often it was lost in a row: its worker runs it alone.
        assert (held.attempt, held.lost) == (attempt, attempt - 1)
        stage.expire_leases()
        last = attempt == max_attempts
        assert reap(stage.db) == [(held.id, AttemptStatus.DEAD if last else AttemptStatus.LOST)]
    assert leases(stage) == 0
    assert [final for _, final, _ in statuses(stage, held.id)] == [False] * (max_attempts - 1) + [
        True
    ]
    leader.tick()
    assert leader.scheduler.in_flight == 0
    check(stage.db)


def test_the_count_of_lost_leases_starts_anew_once_a_worker_survived_the_task(
    stage: Stage,
) -> None:
    leader = stage.leader()
    (held,) = claimed(stage, leader)
    for status, lost in ((None, 1), (AttemptStatus.RELEASED, 1), (AttemptStatus.FAILED, 0)):
        if status is None:
            stage.expire_leases()
            reap(stage.db)
        else:
            give_back(stage.db, [held], status)
        leader.drain_ticks()
        (held,) = claim(stage.db, 1)
        assert held.lost == lost


@pytest.mark.parametrize(
    ("status", "freed"),
    [
        (AttemptStatus.SUCCEEDED, True),
        (AttemptStatus.DISCARDED, True),
        (AttemptStatus.FAILED, False),
        (AttemptStatus.RELEASED, False),
        (AttemptStatus.SNOOZED, False),
    ],
)
def test_the_end_of_a_task_frees_its_key_and_nothing_else_does(
    stage: Stage, status: AttemptStatus, freed: bool
) -> None:
    claims = claimed(stage, stage.leader(), idempotency_key="k")
    if freed:
        assert len(finish(stage.db, claims, status)) == 1
    else:
        give_back(stage.db, claims, status)
    assert stage.one("select count(*) from orchestrator.idempotency_key") == (0 if freed else 1)
    check(stage.db)
    (again,) = stage.enqueue(1, idempotency_key="k")
    assert (again == claims[0].id) is not freed


def test_of_two_expired_leases_each_row_is_taken_back_once(stage: Stage) -> None:
    leader = stage.leader()
    claims = claimed(stage, leader, 2) + claimed(stage, leader, 3)
    stage.expire_leases()
    cancel(stage.db, claims[0].id)
    taken = dict(reap(stage.db))
    assert taken.pop(claims[0].id) is AttemptStatus.CANCELLED
    assert set(taken.values()) == {AttemptStatus.LOST}
    assert sorted(taken) == sorted(c.id for c in claims[1:])
    assert reap(stage.db) == []
    assert leader.drain_ticks() == 4
    assert leader.sweep() == []
    check(stage.db)


def test_leases_held_up_by_open_transactions_hold_up_no_others(stage: Stage) -> None:
    # One call takes back the tasks of twenty leases at most; these are the oldest.
    leader = stage.leader()
    leader.reign.tick.window.parked = 100
    held = [claimed(stage, leader)[0] for _ in range(20)]
    worker = stage.connect()
    worker.execute("begin")
    assert len(finish(worker, held)) == 20
    stage.expire_leases()
    (lost,) = claimed(stage, leader)
    stage.expire_leases([lost.claim_id])
    stage.do(
        "update orchestrator.lease set expires_at = expires_at - interval '1 minute'"
        " where claim_id <> %s",
        lost.claim_id,
    )
    for _ in range(3):
        leader.step()
    assert statuses(stage, lost.id) == [("lost", False, 1)]
    worker.execute("commit")


# An effect in the same transaction ----------------------------------------------------------------


class Effects:
    """A table of the application, written in the transaction that finishes the task."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        stage.do("create table effect (task bigint not null)")

    def __call__(self, held: Claim) -> bool:
        """Write the effect and finish the task together, as `ack(connection=...)` does."""
        connection = self._stage.connect()
        with connection.transaction() as transaction:
            connection.execute("insert into effect values (%s)", [held.id])
            finished = finish(connection, [held]) == {held.dispatch_key}
            if not finished:
                # What a caller does who learns that the lease is lost.
                raise Rollback(transaction)
        return finished

    def count(self, held: Claim) -> int:
        return int(self._stage.one("select count(*) from effect where task = %s", held.id))


def test_an_effect_exists_once_when_the_lease_was_lost_and_the_task_ran_again(
    stage: Stage,
) -> None:
    leader = stage.leader()
    effects = Effects(stage)
    (first,) = claimed(stage, leader)
    stage.expire_leases()
    reap(stage.db)
    leader.drain_ticks()
    (second,) = claim(stage.db, 1)
    assert [effects(held) for held in (first, second, first, second)] == [False, True, False, False]
    assert effects.count(first) == 1
    check(stage.db)


def test_an_effect_of_a_late_worker_counts_if_nobody_took_the_task_back(stage: Stage) -> None:
    effects = Effects(stage)
    (held,) = claimed(stage, stage.leader())
    stage.expire_leases()
    assert effects(held)
    # Its lease stands until somebody looks, and has nothing left in it.
    assert leases(stage) == 1
    assert reap(stage.db) == []
    assert leases(stage) == 0
    assert effects.count(held) == 1
