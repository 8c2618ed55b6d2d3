"""A worker's heartbeat through the client: leases extended, wishes told, room filled."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from orchestrator import (
    AsyncClient,
    AttemptStatus,
    Claim,
    Client,
    InvalidInput,
    LeaseLost,
    UnknownQueue,
)
from tests.support.stage import Stage


@pytest.fixture
def worker(stage: Stage) -> Iterator[Client]:
    """Yield a client of the stage's database."""
    with Client(stage.dsn, name="worker") as client:
        yield client


def ready(stage: Stage, count: int) -> list[int]:
    ids = stage.enqueue(count)
    stage.leader().drain_ticks()
    return ids


def ask_to_yield(stage: Stage, claim: Claim) -> None:
    stage.do(
        "update orchestrator.lease set yielding = yielding || %s::bigint where claim_id = %s",
        claim.dispatch_key,
        claim.claim_id,
    )


def test_a_heartbeat_extends_what_runs_and_claims_as_much_as_there_is_room_for(
    stage: Stage, worker: Client
) -> None:
    ids = ready(stage, 5)
    first = worker.heartbeat(spare=2, lease_s=5.0, worker="daemon 7")
    assert [claim.id for claim in first.claims] == ids[:2]
    assert (first.extensions, first.lost) == ((), frozenset())
    second = worker.heartbeat(first.claims, spare=10, lease_s=60.0, worker="daemon 7")
    (extension,) = second.extensions
    assert extension.lease_expires_at > first.claims[0].lease_expires_at
    assert [claim.id for claim in second.claims] == ids[2:]
    assert stage.rows("select distinct worker from orchestrator.lease") == [("daemon 7",)]
    worker.ack([*first.claims, *second.claims])
    assert stage.one("select count(*) from orchestrator.lease") == 0


def test_no_room_claims_nothing_and_a_negative_one_is_refused(stage: Stage, worker: Client) -> None:
    ready(stage, 1)
    assert worker.heartbeat().claims == ()
    assert worker.heartbeat(spare=0).claims == ()
    with pytest.raises(InvalidInput, match="spare"):
        worker.heartbeat(spare=-1)
    assert stage.one("select count(*) from orchestrator.lease") == 0


def test_a_heartbeat_tells_what_was_lost_what_to_stop_and_what_to_yield(
    stage: Stage, worker: Client
) -> None:
    ready(stage, 4)
    gone = worker.claim()
    held = worker.claim(limit=3)
    stage.expire_leases([gone[0].claim_id])
    worker.cancel(held[0].id)
    ask_to_yield(stage, held[1])
    told = worker.heartbeat([*gone, *held])
    assert told.lost == {gone[0].id}
    assert told.cancelled == {held[0].id}
    assert told.yielding == {held[1].id}
    # The verb that raises for lost leases says the same of the others.
    (extension,) = worker.extend(held)
    assert extension.cancelled == {held[0].id}
    assert extension.yielding == {held[1].id}
    with pytest.raises(LeaseLost):
        worker.extend(gone)


def test_a_task_yields_by_a_snooze_without_a_delay(stage: Stage, worker: Client) -> None:
    leader = stage.leader()
    first, second = stage.enqueue(2)
    leader.drain_ticks()
    (claim,) = worker.claim()
    assert claim.id == first
    assert worker.snooze(claim) is AttemptStatus.SNOOZED
    leader.drain_ticks()
    # Not counted, and in its old place once it is admitted again: what was ready stands before it.
    again = worker.claim(limit=2)
    assert [(each.id, each.attempt) for each in again] == [(second, 1), (first, 1)]


def test_room_is_filled_from_several_queues_in_their_order(stage: Stage, worker: Client) -> None:
    stage.do("insert into orchestrator.queue (name) values ('mail')")
    (here,) = ready(stage, 1)
    there = worker.enqueue("t", org="a", queue="mail").id
    stage.leader(queue=2).drain_ticks()
    told = worker.heartbeat(spare=5, queue=["mail", "default", "mail"])
    assert [(claim.id, claim.queue) for claim in told.claims] == [
        (there, "mail"),
        (here, "default"),
    ]


def test_claims_are_told_though_a_later_queue_is_unknown(stage: Stage, worker: Client) -> None:
    (only,) = ready(stage, 1)
    told = worker.heartbeat(spare=5, queue=["default", "nowhere"])
    assert [claim.id for claim in told.claims] == [only]
    with pytest.raises(UnknownQueue):
        worker.heartbeat(spare=5, queue=["default", "nowhere"])


def test_the_asynchronous_client_beats_alike(stage: Stage) -> None:
    ids = ready(stage, 2)

    async def use() -> None:
        async with AsyncClient(stage.dsn) as client:
            first = await client.heartbeat(spare=1)
            second = await client.heartbeat(first.claims, spare=1)
            assert [claim.id for told in (first, second) for claim in told.claims] == ids
            await client.cancel(ids[0])
            told = await client.heartbeat([*first.claims, *second.claims])
            assert told.cancelled == {ids[0]}

    asyncio.run(use())
