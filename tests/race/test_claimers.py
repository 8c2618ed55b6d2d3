"""Many claimers at once: each gets at most what it asked for, and no task goes to two of them."""

from __future__ import annotations

import random
from threading import Barrier
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import Connection

from orchestrator.model import Claim
from orchestrator.store import queue
from orchestrator.store.sql import Batch, Operation, just, run
from tests.support.interleave import Actor, Cast, alone, explore
from tests.support.invariants import check
from tests.support.stage import Stage
from tests.support.stepping import ack, claim, reap
from tests.support.waiting import PATIENCE_S

CLAIMERS = 8
TASKS = 600


def ready(stage: Stage, count: int) -> set[int]:
    """Admit `count` tasks; return their ids."""
    staged = set(stage.enqueue(count))
    leader = stage.leader()
    leader.reign.tick.window.parked = count
    assert leader.drain_ticks() == count
    leader.close()
    return staged


@pytest.mark.parametrize("stale", [False, True], ids=["fresh statistics", "stale statistics"])
def test_claimers_share_no_task_and_leave_none(stage: Stage, stale: bool) -> None:
    if stale:
        stage.do("analyze orchestrator.task_queue")
    staged = ready(stage, TASKS)
    if not stale:
        stage.do("analyze orchestrator.task_queue")
    together = Barrier(CLAIMERS)

    def claim_all(seed: int) -> list[Claim]:
        # Half of them without our pins: plans may differ, answers may not.
        connection: Connection[Any] = (
            stage.connect() if seed % 2 else psycopg.connect(stage.dsn, autocommit=True)
        )
        limits = random.Random(seed)
        taken: list[Claim] = []
        together.wait(PATIENCE_S)
        with connection:
            while True:
                limit = limits.randint(1, 9)
                claims = claim(connection, limit)
                assert len(claims) <= limit
                taken += claims
                # Empty-handed may mean that the others hold what is left for a moment.
                if not claims and not unclaimed(connection):
                    return taken

    claimers = [stage.start(claim_all, seed) for seed in range(CLAIMERS)]
    taken = [c.id for claimer in claimers for c in claimer.result(PATIENCE_S)]
    assert len(taken) == len(set(taken))
    assert set(taken) == staged
    leased = stage.rows("select unnest(task_ids) from orchestrator.lease")
    assert sorted(task_id for (task_id,) in leased) == sorted(taken)
    check(stage.db)


def unclaimed(connection: Connection[Any]) -> bool:
    row = connection.execute(
        "select exists (select from orchestrator.task_queue where claim_id is null)"
    ).fetchone()
    return bool(row and row[0])


def test_a_claim_passes_over_rows_that_another_holds_in_an_open_transaction(stage: Stage) -> None:
    staged = sorted(ready(stage, 4))
    first, second = stage.connect(), stage.connect()
    with first.transaction(force_rollback=True):
        assert [c.id for c in claim(first, 2)] == staged[:2]
        assert [c.id for c in claim(second, 10)] == staged[2:]
    assert [c.id for c in claim(second, 10)] == staged[:2]
    check(stage.db)


def test_a_task_of_which_the_record_is_gone_is_claimed_all_the_same(stage: Stage) -> None:
    (task_id,) = ready(stage, 1)
    stage.do("delete from orchestrator.task")
    (claimed,) = claim(stage.db, 1)
    assert (claimed.id, claimed.name) == (task_id, None)


@pytest.mark.parametrize("records", ["there", "gone"])
def test_a_lease_that_was_lost_before_its_records_were_read_is_told_apart_from_lost_records(
    stage: Stage, records: str
) -> None:
    """Whoever claims is stopped between the two statements for longer than the lease."""
    ids = ready(stage, 2)
    if records == "gone":
        stage.do("delete from orchestrator.task where id = any (%s)", list(ids))
    claim_id = uuid4()
    taking = queue.take(
        1, "default", claim_id, quota=queue.Quota(5, 5, 5), lease_s=30, worker="test"
    )
    batch = next(taking)
    assert isinstance(batch, Batch)
    take, read = batch.calls
    taken = run(stage.db, just(take))
    while_leased = run(stage.db, just(read))
    stage.expire_leases()
    assert len(reap(stage.db)) == 2
    assert finished(taking, [taken, run(stage.db, just(read))]) == ([], 2)
    # While the lease is there, what is missing are the records.
    again = queue.take(
        1, "default", claim_id, quota=queue.Quota(5, 5, 5), lease_s=30, worker="test"
    )
    next(again)
    claims, lost = finished(again, [taken, while_leased])
    assert lost == 0
    assert [each.name is None for each in claims] == [records == "gone"] * 2


def finished(operation: Operation, answers: object) -> Any:
    """Answer the last request of an operation; return its value."""
    with pytest.raises(StopIteration) as done:
        operation.send(answers)
    return done.value.value


def test_two_claims_in_every_order_of_their_statements(stage: Stage) -> None:
    leader = stage.leader()
    one, two = stage.connect(), stage.connect()

    def scene() -> Cast:
        stage.enqueue(3)
        assert leader.drain_ticks() == 3
        operations = (
            queue.claim(1, "default", uuid4(), limit=2, lease_s=30, worker="test") for _ in range(2)
        )
        return {
            name: Actor(connection, alone(connection, operation))
            for name, connection, operation in zip("ab", (one, two), operations, strict=True)
        }

    def outcome(cast: Cast) -> None:
        a, b = cast["a"].value, cast["b"].value
        assert sorted((len(a), len(b))) == [1, 2]
        assert not {c.id for c in a} & {c.id for c in b}
        check(stage.db)
        assert len(ack(stage.db, [*a, *b])) == 3

    assert explore(stage.db, scene, outcome) >= 6
