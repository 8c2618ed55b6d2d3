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
from orchestrator.store.sql import run
from tests.support.interleave import Actor, Cast, alone, explore
from tests.support.invariants import check
from tests.support.stage import Stage
from tests.support.stepping import ack, claim
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


def taken(connection: Connection[Any], *, few: bool) -> list[Claim]:
    quota = queue.Quota(100, 100, 100)
    operation = queue.take(1, "default", uuid4(), quota=quota, lease_s=30, worker="test", few=few)
    claims: list[Claim] = run(connection, operation)
    return claims


@pytest.mark.parametrize("few", [True, False])
def test_a_task_of_which_the_record_is_gone_is_claimed_all_the_same(
    stage: Stage, few: bool
) -> None:
    gone, there = sorted(ready(stage, 2))
    stage.do("delete from orchestrator.task where id = %s", gone)
    claims = taken(stage.db, few=few)
    assert [(claimed.id, claimed.name) for claimed in claims] == [(gone, None), (there, "t")]


def test_few_tasks_and_many_are_claimed_alike(stage: Stage) -> None:
    """Whoever expects few claims by one statement, and gets all there is, in the same order."""
    count = 3 * queue.FEW
    ready(stage, count)
    # So that the order of places is not that of keys.
    stage.do("update orchestrator.task_queue set lost = 2 where mod(task_id, 3) = 0")
    stage.do(
        """update orchestrator.task set payload = '[1]', headers = '{"a": "b"}' where id > 9"""
    )

    def told(*, few: bool) -> list[dict[str, Any]]:
        with stage.db.transaction(force_rollback=True):
            claims = taken(stage.db, few=few)
            leased = stage.one("select dispatch_keys from orchestrator.lease")
            assert leased == [claimed.dispatch_key for claimed in claims]
            assert len({(c.claim_id, c.lease_expires_at) for c in claims}) == 1
            assert all(c.waited_s is not None and c.waited_s > 0 for c in claims)
            return [
                {**vars(c), "claim_id": None, "lease_expires_at": None, "waited_s": None}
                for c in claims
            ]

    one, many = told(few=True), told(few=False)
    assert len(one) == count
    assert one == many
    assert {each["lost"] for each in one} == {0, 2}


@pytest.mark.parametrize(("few", "orders"), [(False, 6), (True, 2)], ids=["many", "few"])
def test_two_claims_in_every_order_of_their_statements(
    stage: Stage, few: bool, orders: int
) -> None:
    leader = stage.leader()
    one, two = stage.connect(), stage.connect()

    def scene() -> Cast:
        stage.enqueue(3)
        assert leader.drain_ticks() == 3
        quota = queue.Quota(2, 2, 2)
        operations = (
            queue.take(1, "default", uuid4(), quota=quota, lease_s=30, worker="test", few=few)
            for _ in range(2)
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

    assert explore(stage.db, scene, outcome) >= orders
