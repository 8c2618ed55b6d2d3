"""A task that waits, and two who want to move it: in every order, one of them does."""

from __future__ import annotations

from uuid import uuid4

import pytest
from psycopg import Connection

from orchestrator.errors import IdempotencyConflict, TaskUnfinished
from orchestrator.model import AttemptStatus, CancelOutcome, TaskSpec
from orchestrator.store import queue, staging, tasks
from orchestrator.store.sql import run
from tests.support.interleave import Actor, Cast, Script, alone, explore, together
from tests.support.invariants import check
from tests.support.stage import Stage
from tests.support.stepping import SteppedLeader, ack, cancel, claim, give_back


def cancelling(connection: Connection[object], task_id: int) -> Script:
    return alone(connection, tasks.cancel(task_id, reason="test"))


def retrying(connection: Connection[object], task_id: int) -> Script:
    return together(connection, tasks.retry(task_id))


def claiming(connection: Connection[object], limit: int = 1) -> Script:
    operation = queue.claim(1, "default", uuid4(), limit=limit, lease_s=30, worker="test")
    return alone(connection, operation)


def enqueueing(connection: Connection[object], key: str, payload: str = "{}") -> Script:
    spec = TaskSpec(name="t", org="a", idempotency_key=key)
    return together(connection, staging.enqueue(1, [spec], [payload]))


def ticking(leader: SteppedLeader) -> Script:
    """Tick in one step."""
    return leader.tick()
    yield


def final(stage: Stage, task_id: int) -> list[str]:
    query = "select status from orchestrator.task_attempt where task_id = %s and final"
    return [status for (status,) in stage.rows(query, task_id)]


def test_cancel_and_claim(stage: Stage) -> None:
    leader = stage.leader()
    one, two = stage.connect(), stage.connect()
    wanted: list[int] = []

    def scene() -> Cast:
        wanted[:] = stage.enqueue(1)
        leader.tick()
        return {"cancel": Actor(one, cancelling(one, *wanted)), "claim": Actor(two, claiming(two))}

    def outcome(cast: Cast) -> None:
        check(stage.db)
        outcome, claims = cast["cancel"].value, cast["claim"].value
        if outcome is CancelOutcome.CANCELLED:
            assert claims == []
            assert final(stage, *wanted) == ["cancelled"]
            return
        # Too late to take it away: its worker is told, and its nack is obeyed.
        assert outcome is CancelOutcome.REQUESTED
        ((verdict,),) = [give_back(stage.db, claims).values()]
        assert verdict is AttemptStatus.CANCELLED

    explore(stage.db, scene, outcome)


def test_cancel_and_tick(stage: Stage) -> None:
    leader = stage.leader()
    one = stage.connect()
    wanted: list[int] = []

    def scene() -> Cast:
        # Nothing of the scene before is left, and the leader does not know of this one.
        leader.drain_ticks()
        wanted[:] = stage.enqueue(2)
        return {
            "cancel": Actor(one, cancelling(one, wanted[0])),
            "tick": Actor(leader.connection, ticking(leader)),
        }

    def outcome(cast: Cast) -> None:
        check(stage.db)
        assert cast["cancel"].value is CancelOutcome.CANCELLED
        leader.drain_ticks()
        assert [c.id for c in claim(stage.db, 5)] == wanted[1:]
        assert final(stage, wanted[0]) == ["cancelled"]
        ack_all(stage)
        leader.tick()
        assert leader.scheduler.in_flight == 0

    explore(stage.db, scene, outcome)


def ack_all(stage: Stage) -> None:
    """End what is claimed, by hand of whoever holds it."""
    stage.expire_leases()
    with stage.db.transaction():
        run(stage.db, queue.reap(1, limit=100))
    for (task_id,) in stage.rows("select task_id from orchestrator.staging_queue"):
        cancel(stage.db, task_id)


def test_two_cancellations(stage: Stage) -> None:
    one, two = stage.connect(), stage.connect()
    wanted: list[int] = []

    def scene() -> Cast:
        wanted[:] = stage.enqueue(1)
        return {
            "first": Actor(one, cancelling(one, *wanted)),
            "second": Actor(two, cancelling(two, *wanted)),
        }

    def outcome(cast: Cast) -> None:
        check(stage.db)
        values = {actor.value for actor in cast.values()}
        assert values == {CancelOutcome.CANCELLED, CancelOutcome.ENDED}
        assert final(stage, *wanted) == ["cancelled"]

    explore(stage.db, scene, outcome)


def test_of_two_retries_exactly_one_wins(stage: Stage) -> None:
    one, two = stage.connect(), stage.connect()
    wanted: list[int] = []

    def scene() -> Cast:
        key = str(len(stage.rows("select from orchestrator.task")))
        wanted[:] = stage.enqueue(1, idempotency_key=key)
        cancel(stage.db, *wanted)
        return {
            "first": Actor(one, retrying(one, *wanted)),
            "second": Actor(two, retrying(two, *wanted)),
        }

    def outcome(cast: Cast) -> None:
        check(stage.db)
        errors = [actor.error for actor in cast.values() if actor.error]
        assert [type(error) for error in errors] == [TaskUnfinished]
        place = "select attempt from orchestrator.staging_queue where task_id = %s"
        assert stage.rows(place, *wanted) == [(0,)]
        key = "select count(*) from orchestrator.idempotency_key where task_id = %s"
        assert stage.one(key, *wanted) == 1

    explore(stage.db, scene, outcome, most=40)


def test_a_retry_and_an_enqueue_with_its_key(stage: Stage) -> None:
    one, two = stage.connect(), stage.connect()
    wanted: list[int] = []

    def scene() -> Cast:
        key = str(len(stage.rows("select from orchestrator.task")))
        wanted[:] = stage.enqueue(1, idempotency_key=key)
        cancel(stage.db, *wanted)
        return {
            "retry": Actor(one, retrying(one, *wanted)),
            "enqueue": Actor(two, enqueueing(two, key)),
        }

    def outcome(cast: Cast) -> None:
        check(stage.db)
        ((stored,),) = [cast["enqueue"].value]
        error = cast["retry"].error
        # One task holds the key; who came second found it.
        assert isinstance(error, IdempotencyConflict) if stored.created else error is None
        assert (stored.id == wanted[0]) is not stored.created

    explore(stage.db, scene, outcome)


def test_two_enqueues_with_one_key_store_one_task(stage: Stage) -> None:
    one, two = stage.connect(), stage.connect()

    def scene() -> Cast:
        key = str(len(stage.rows("select from orchestrator.task")))
        return {
            "first": Actor(one, enqueueing(one, key)),
            "second": Actor(two, enqueueing(two, key)),
        }

    def outcome(cast: Cast) -> None:
        check(stage.db)
        stored = [enqueued for actor in cast.values() for enqueued in actor.value]
        assert len({enqueued.id for enqueued in stored}) == 1
        assert sorted(enqueued.created for enqueued in stored) == [False, True]

    explore(stage.db, scene, outcome)


def test_two_enqueues_with_one_key_and_other_payloads_conflict(stage: Stage) -> None:
    one, two = stage.connect(), stage.connect()

    def scene() -> Cast:
        key = str(len(stage.rows("select from orchestrator.task")))
        return {
            "first": Actor(one, enqueueing(one, key, "1")),
            "second": Actor(two, enqueueing(two, key, "2")),
        }

    def outcome(cast: Cast) -> None:
        check(stage.db)
        errors = [actor.error for actor in cast.values() if actor.error]
        assert [type(error) for error in errors] == [IdempotencyConflict]

    explore(stage.db, scene, outcome)


def test_an_ack_and_an_enqueue_with_the_key_of_its_task(stage: Stage) -> None:
    leader = stage.leader()
    one, two = stage.connect(), stage.connect()
    wanted: list[int] = []

    def scene() -> Cast:
        key = str(len(stage.rows("select from orchestrator.task")))
        leader.drain_ticks()
        ack(stage.db, claim(stage.db, 10))
        wanted[:] = stage.enqueue(1, idempotency_key=key)
        leader.tick()
        (held,) = claim(stage.db, 1)
        done = queue.Ending(held.dispatch_key, held.claim_id, AttemptStatus.SUCCEEDED)
        return {
            "ack": Actor(one, together(one, queue.finish(1, [done], worker="test"))),
            "enqueue": Actor(two, enqueueing(two, key)),
        }

    def outcome(cast: Cast) -> None:
        check(stage.db)
        assert len(cast["ack"].value) == 1
        ((stored,),) = [cast["enqueue"].value]
        # Either the task of before, unfinished at that moment, or a new one.
        assert (stored.id == wanted[0]) is not stored.created

    explore(stage.db, scene, outcome)


@pytest.mark.parametrize("rival", ["claim", "cancel"])
def test_a_passed_deadline_and_a_rival(stage: Stage, rival: str) -> None:
    leader = stage.leader()
    one, two = stage.connect(), stage.connect()
    wanted: list[int] = []

    def scene() -> Cast:
        wanted[:] = stage.enqueue(1)
        leader.tick()
        stage.do("update orchestrator.task_queue set expires_at = clock_timestamp()")
        other = claiming(two) if rival == "claim" else cancelling(two, *wanted)
        return {
            "expire": Actor(one, together(one, queue.expire(1, limit=10))),
            "rival": Actor(two, other),
        }

    def outcome(cast: Cast) -> None:
        check(stage.db)
        (status,) = final(stage, *wanted)
        if rival == "claim":
            assert (status, cast["rival"].value) == ("expired", [])
        else:
            assert cast["expire"].value == (status == "expired")
            assert cast["rival"].value is CancelOutcome(
                "cancelled" if status == "cancelled" else "ended"
            )

    explore(stage.db, scene, outcome)
