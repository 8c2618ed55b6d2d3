"""Idempotency keys: unique over the unfinished tasks of a queue and org."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from orchestrator import Claim, Client, Enqueued, IdempotencyConflict, TaskSpec
from orchestrator.leader.replica import Replica
from orchestrator.store import orgs
from orchestrator.store.sql import run
from tests.integration.conftest import ask

CALLERS = 100


def stored(dsn: str) -> int:
    count: int = ask(dsn, "select count(*) from orchestrator.task")
    return count


def test_a_hundred_concurrent_callers_with_one_key_get_one_task(dsn: str, client: Client) -> None:
    together = threading.Barrier(CALLERS, timeout=30)

    def call(_: int) -> Enqueued:
        together.wait()
        return client.enqueue("bill", {"month": 7}, org="acme", idempotency_key="2026-07")

    with ThreadPoolExecutor(CALLERS) as callers:
        answers = list(callers.map(call, range(CALLERS)))
    assert len({answer.id for answer in answers}) == 1
    assert sum(answer.created for answer in answers) == 1
    assert stored(dsn) == 1


def test_the_same_request_is_the_same_whatever_its_schedule_and_key_order(client: Client) -> None:
    first = client.enqueue("bill", {"a": 1, "b": 2}, org="acme", idempotency_key="k")
    again = client.enqueue(
        "bill", {"b": 2, "a": 1}, org="acme", idempotency_key="k", delay=60, priority=9
    )
    assert (again.id, again.created) == (first.id, False)


@pytest.mark.parametrize(
    "other",
    [
        {"payload": {"month": 8}},
        {"name": "remind"},
        {"workload": "api"},
    ],
    ids=["payload", "name", "workload"],
)
def test_another_request_under_the_key_is_a_conflict_and_not_stored(
    dsn: str, client: Client, other: dict[str, object]
) -> None:
    request = {"name": "bill", "payload": {"month": 7}, "org": "acme", "idempotency_key": "k"}
    [first] = client.enqueue_many([request])
    with pytest.raises(IdempotencyConflict, match=f"unfinished task {first.id}"):
        client.enqueue(**(request | other))  # type: ignore[arg-type]
    assert stored(dsn) == 1


def test_a_conflict_in_a_batch_leaves_nothing_of_the_batch(dsn: str, client: Client) -> None:
    client.enqueue("bill", 1, org="acme", idempotency_key="k")
    batch = [
        TaskSpec(name="bill", payload=2, org="acme"),
        TaskSpec(name="bill", payload=2, org="acme", idempotency_key="k"),
        TaskSpec(name="bill", payload=2, org="acme", idempotency_key="new"),
    ]
    with pytest.raises(IdempotencyConflict):
        client.enqueue_many(batch)
    assert stored(dsn) == 1
    assert ask(dsn, "select count(*) from orchestrator.idempotency_key") == 1


def test_a_key_twice_in_a_batch_is_one_task(dsn: str, client: Client) -> None:
    spec = TaskSpec(name="bill", payload=1, org="acme", idempotency_key="k")
    first, second = client.enqueue_many([spec, spec])
    assert first.id == second.id
    assert (first.created, second.created) == (True, False)
    assert stored(dsn) == 1


def test_keys_of_other_orgs_and_queues_are_other_keys(dsn: str, client: Client) -> None:
    with psycopg.connect(dsn) as connection:
        run(connection, orgs.set_queue("bulk", actor="test"))
    answers = [
        client.enqueue("bill", org="acme", idempotency_key="k"),
        client.enqueue("bill", org="bolt", idempotency_key="k"),
        client.enqueue("bill", org="acme", idempotency_key="k", queue="bulk"),
    ]
    assert all(answer.created for answer in answers)


def acked(client: Client, claim: Claim) -> None:
    client.ack(claim)


def discarded(client: Client, claim: Claim) -> None:
    client.discard(claim, "no longer wanted")


def dead(client: Client, claim: Claim) -> None:
    assert client.nack(claim, "broken") == "dead"


@pytest.mark.parametrize("end", [acked, discarded, dead])
def test_the_end_of_a_task_frees_its_key(
    replica: Replica, client: Client, end: Callable[[Client, Claim], None]
) -> None:
    first = client.enqueue("bill", org="acme", idempotency_key="k", max_attempts=1)
    [claim] = client.claim(wait_s=10)
    assert not client.enqueue("bill", org="acme", idempotency_key="k").created
    end(client, claim)
    second = client.enqueue("bill", org="acme", idempotency_key="k")
    assert second.created
    assert second.id != first.id


def test_in_a_batch_only_tasks_with_a_key_have_one_freed(
    replica: Replica, client: Client, dsn: str
) -> None:
    client.enqueue("bill", org="bolt", idempotency_key="k", delay=3600)
    for key in (None, "k", None):
        client.enqueue("bill", org="acme", idempotency_key=key)
    claims: list[Claim] = []
    while len(claims) < 3:
        claims += client.claim(limit=3 - len(claims), wait_s=10)
    assert sorted(claim.keyed for claim in claims) == [False, False, True]
    client.ack(claims)
    assert ask(dsn, "select string_agg(org_id, ' ') from orchestrator.idempotency_key") == "bolt"


def test_cancelling_a_waiting_task_frees_its_key(client: Client) -> None:
    first = client.enqueue("bill", org="acme", idempotency_key="k", delay=3600)
    client.cancel(first.id)
    assert client.enqueue("bill", org="acme", idempotency_key="k").created


def test_a_retry_takes_the_key_again_unless_another_task_has_it(client: Client) -> None:
    first = client.enqueue("bill", org="acme", idempotency_key="k")
    client.cancel(first.id)
    client.retry(first.id)
    assert client.enqueue("bill", org="acme", idempotency_key="k").id == first.id
    client.cancel(first.id)
    second = client.enqueue("bill", org="acme", idempotency_key="k")
    with pytest.raises(IdempotencyConflict, match="'k'"):
        client.retry(first.id)
    assert second.created


def test_batches_that_meet_in_opposite_order_do_not_deadlock(
    dsn: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.client.producing.CHUNK_ITEMS", 7)
    keys = [f"key {number}" for number in range(100)]
    rounds = 5
    together = threading.Barrier(2, timeout=30)

    def send(order: list[str]) -> list[Enqueued]:
        answers = []
        for number in range(rounds):
            together.wait()
            answers += client.enqueue_many(
                TaskSpec(name="bill", org=f"org {number}", idempotency_key=key) for key in order
            )
        return answers

    with ThreadPoolExecutor(2) as senders:
        mine, theirs = senders.map(send, [keys, keys[::-1]])
    assert stored(dsn) == rounds * len(keys)
    assert {answer.id for answer in mine} == {answer.id for answer in theirs}
    assert sum(answer.created for answer in mine + theirs) == rounds * len(keys)
