"""The blocking client over real PostgreSQL: every verb, its errors, and the connections beneath."""

import math
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import psycopg
import pytest
import sqlalchemy

from orchestrator import (
    AttemptStatus,
    CancelOutcome,
    Claim,
    Client,
    DatabaseUnavailable,
    InvalidInput,
    LeaseLost,
    Place,
    TaskNotFound,
    TaskSpec,
    TaskUnfinished,
    UnknownOrg,
    UnknownQueue,
    UnknownTier,
    UnknownWorkload,
)
from orchestrator.config import LimitsSettings, Settings
from orchestrator.leader.replica import Replica
from orchestrator.store import orgs, staging
from orchestrator.store.sql import Call, Operation, run
from tests.integration.conftest import ask
from tests.support.waiting import until

WAIT_S = 20.0


@pytest.fixture(params=["dsn", "engine"])
def any_client(request: pytest.FixtureRequest, dsn: str) -> Iterator[Client]:
    """Yield a client over a DSN, then one over an Engine of the caller."""
    if request.param == "dsn":
        with Client(dsn) as client:
            yield client
        return
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
    with Client(engine) as client:
        yield client
    engine.dispose()


def claimed(client: Client, count: int = 1, **spec: Any) -> list[Claim]:
    """Enqueue and claim `count` tasks, all with one lease."""
    client.enqueue_many([{"name": "t", "org": "acme", **spec}] * count)
    until(lambda: count_places(client).get(Place.READY) == count, "all are ready")
    return client.claim(limit=count)


def count_places(client: Client) -> dict[Place, int]:
    lines = client.tasks()
    return {place: sum(line.place is place for line in lines) for place in Place}


# The way of a task --------------------------------------------------------------------------------


def test_a_task_goes_from_enqueue_to_done(replica: Replica, any_client: Client) -> None:
    payload = {"text": 'ünï "quoted" \\u0000 😀', "numbers": [0, -1, 2.5, 10**30], "none": None}
    staged = any_client.enqueue(
        "resize", payload, org="acme", priority=8, headers={"trace": "7"}, timeout_s=9
    )
    [claim] = any_client.claim(wait_s=WAIT_S, worker="me")
    assert (claim.id, claim.name, claim.org, claim.payload) == (
        staged.id,
        "resize",
        "acme",
        payload,
    )
    assert (claim.priority, claim.attempt, claim.headers) == (8, 1, {"trace": "7"})
    assert claim.timeout_s == 9.0
    running = any_client.get(claim.id)
    assert (running.place, running.worker) == (Place.CLAIMED, "me")
    any_client.ack(claim)
    ended = any_client.get(claim.id)
    assert (ended.place, ended.status) == (Place.ENDED, AttemptStatus.SUCCEEDED)
    assert [attempt.worker for attempt in ended.history] == ["me"]


@pytest.mark.parametrize(
    "text",
    ["'; drop table task; --", "<script>alert(1)</script>", "\x1b[31mred", "\u202eabc", "x" * 200],
)
def test_strange_names_are_stored_as_they_are(replica: Replica, client: Client, text: str) -> None:
    client.enqueue(text, {text: text}, org=text, idempotency_key=text, headers={text: text})
    [claim] = client.claim(wait_s=WAIT_S)
    assert (claim.name, claim.org, claim.payload) == (text, text, {text: text})
    assert claim.headers == {text: text}
    client.ack(claim)


def test_nothing_is_stored_of_what_is_refused(dsn: str, client: Client) -> None:
    refused: list[tuple[type[Exception], dict[str, Any]]] = [
        (InvalidInput, {"priority": 0}),
        (InvalidInput, {"payload": {"at": datetime.now(UTC)}}),
        (InvalidInput, {"org": "\0"}),
        (UnknownQueue, {"queue": "no such"}),
        (UnknownWorkload, {"workload": "no such"}),
    ]
    for error, given in refused:
        with pytest.raises(error):
            client.enqueue(**({"name": "t", "org": "acme"} | given))
        batch = [{"name": "t", "org": "acme"}, {"name": "t", "org": "acme"} | given]
        with pytest.raises(error, match="item 1: "):
            client.enqueue_many(batch)
    assert ask(dsn, "select count(*) from orchestrator.task") == 0
    assert ask(dsn, "select count(*) from orchestrator.staging_queue") == 0


def test_an_enqueue_that_fails_at_its_very_commit_says_so(dsn: str, any_client: Client) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            """create function orchestrator.refuse() returns trigger language plpgsql as
               $$ begin raise 'refused at the commit'; end $$"""
        )
        connection.execute(
            """create constraint trigger refuse after insert on orchestrator.staging_queue
               deferrable initially deferred for each row execute function orchestrator.refuse()"""
        )
    for _ in range(2):
        with pytest.raises(psycopg.errors.RaiseException, match="refused at the commit"):
            any_client.enqueue("t", org="acme")
    assert not any(count_places(any_client).values())


def test_a_queue_is_known_as_soon_as_it_exists(dsn: str, client: Client) -> None:
    with pytest.raises(UnknownQueue, match="orchestrator queue set bulk"):
        client.enqueue("t", org="acme", queue="bulk")
    with psycopg.connect(dsn) as connection:
        run(connection, orgs.set_queue("bulk", actor="test"))
    assert client.enqueue("t", org="acme", queue="bulk").created


def test_a_batch_keeps_its_order_over_statements_and_queues(
    dsn: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.client.producing.CHUNK_ITEMS", 3)
    with psycopg.connect(dsn) as connection:
        run(connection, orgs.set_queue("bulk", actor="test"))
    items = [
        TaskSpec(
            name=f"t{number}",
            org="acme",
            queue=["default", "bulk"][number % 2],
            idempotency_key=f"{9 - number}" if number % 3 else None,
        )
        for number in range(10)
    ]
    answers = client.enqueue_many(iter(items))
    assert [client.get(answer.id).name for answer in answers] == [item.name for item in items]


def test_a_batch_of_one_statement_is_first_in_first_out_whatever_its_keys(client: Client) -> None:
    items = [{"name": "t", "org": "acme", "idempotency_key": key} for key in ["c", None, "a", "b"]]
    ids = [answer.id for answer in client.enqueue_many(items)]
    assert ids == sorted(ids)


def test_an_empty_batch_is_nothing(client: Client) -> None:
    assert client.enqueue_many([]) == []
    client.ack([])
    assert client.extend([]) == []


def test_limits_are_those_of_the_settings(dsn: str) -> None:
    limits = LimitsSettings(payload_bytes_max=10, batch_max=2)
    with Client(dsn, settings=Settings(limits=limits)) as client:
        with pytest.raises(InvalidInput, match="more than 10"):
            client.enqueue("t", "x" * 20, org="acme")
        with pytest.raises(InvalidInput, match="more than 2 items"):
            client.enqueue_many([{"name": "t", "org": "acme"}] * 3)


def test_depth_counts_what_waits_of_the_org_with_the_new_task(client: Client) -> None:
    client.enqueue_many([{"name": "t", "org": "other"}] * 5)
    assert client.enqueue("t", org="acme").depth is None
    assert client.enqueue("t", org="acme", with_depth=True).depth == 2
    client.enqueue_many([{"name": "t", "org": "acme"}] * 1_200)
    assert client.enqueue("t", org="acme", with_depth=True).depth == 1_000


def test_a_task_that_was_stored_is_told_as_that_though_its_depth_cannot_be_counted(
    dsn: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaking(queue: int, org: str) -> Operation:
        return (yield Call(b"select pg_terminate_backend(pg_backend_pid())", {}))

    monkeypatch.setattr(staging, "depth", breaking)
    enqueued = client.enqueue("t", org="acme", with_depth=True)
    assert (enqueued.created, enqueued.depth) == (True, None)
    assert client.get(enqueued.id).place is Place.STAGED
    # Of the caller's transaction nothing is left.
    with psycopg.connect(dsn) as connection, pytest.raises(DatabaseUnavailable):
        client.enqueue("t", org="acme", with_depth=True, connection=connection)
    assert [line.id for line in client.tasks()] == [enqueued.id]


def test_delayed_and_dated_tasks_wait_their_time(client: Client) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    dated = client.get(client.enqueue("t", org="acme", run_at=tomorrow).id)
    assert (dated.place, dated.run_at) == (Place.SCHEDULED, tomorrow)
    delayed = client.get(client.enqueue("t", org="acme", delay=3600).id)
    assert delayed.place is Place.SCHEDULED
    assert client.get(client.enqueue("t", org="acme", delay=0).id).place is Place.STAGED


# Leases -------------------------------------------------------------------------------------------


def test_claims_of_nothing_are_empty_at_once_or_after_the_wait(any_client: Client) -> None:
    assert any_client.claim() == []
    assert any_client.claim(wait_s=0.05) == []


@pytest.mark.parametrize(
    "given",
    [
        *({"limit": value} for value in (0, -1, True, 10_001, "1")),
        *({"lease_s": value} for value in (0, 0.5, 86_401, True, math.nan)),
        *({"wait_s": value} for value in (-1, 3_601, math.nan, math.inf, "1")),
        *({name: ""} for name in ("worker", "queue")),
    ],
    ids=str,
)
def test_claims_out_of_bounds_are_refused(client: Client, given: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(given))):
        client.claim(**given)


def test_a_claim_of_an_unknown_queue_says_so(client: Client) -> None:
    with pytest.raises(UnknownQueue, match="no such"):
        client.claim("no such", wait_s=1)


def test_a_waiting_claim_is_woken_by_a_notification(
    dsn: str, replica: Replica, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It looks once, and then only if it is told to.
    monkeypatch.setattr("orchestrator.client.claiming.POLL_MIN_S", 100.0)
    monkeypatch.setattr("orchestrator.client.claiming.POLL_MAX_S", 100.0)
    listening = "select count(*) > 0 from pg_stat_activity where query ilike 'listen%%ready%%'"
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.claim, wait_s=60)
        until(lambda: ask(dsn, listening), "the client listens")
        staged = client.enqueue("t", org="acme")
        [claim] = waiting.result(WAIT_S)
    assert claim.id == staged.id


def test_many_waiting_claims_all_get_their_task(replica: Replica, any_client: Client) -> None:
    waiters = 8
    with ThreadPoolExecutor(waiters) as threads:
        waiting: list[Future[list[Claim]]] = [
            threads.submit(any_client.claim, wait_s=WAIT_S) for _ in range(waiters)
        ]
        staged = any_client.enqueue_many([{"name": "t", "org": "acme"}] * waiters)
        got = [claim.id for future in waiting for claim in future.result(WAIT_S)]
    assert sorted(got) == sorted(task.id for task in staged)


def test_a_waiting_claim_survives_the_loss_of_its_listening_session(
    dsn: str, replica: Replica, client: Client
) -> None:
    victim = "select pid from pg_stat_activity where query ilike 'listen%%ready%%'"
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.claim, wait_s=WAIT_S)
        pid = until(lambda: ask(dsn, victim), "the client listens")
        ask(dsn, "select pg_terminate_backend(%s)", pid)
        client.enqueue("t", org="acme")
        assert len(waiting.result(WAIT_S)) == 1


def test_extending_moves_the_end_and_tells_which_tasks_should_stop(
    replica: Replica, client: Client
) -> None:
    stopped, other = claimed(client, 2)
    assert client.cancel(stopped.id) is CancelOutcome.REQUESTED
    [extension] = client.extend([stopped, other], 600)
    assert extension.lease_expires_at > stopped.lease_expires_at + timedelta(seconds=500)
    assert extension.cancelled == {stopped.id}
    assert client.nack(stopped, "stopped") is AttemptStatus.CANCELLED
    assert client.get(stopped.id).status is AttemptStatus.CANCELLED


def test_extending_names_the_lost_after_extending_the_others(
    replica: Replica, client: Client
) -> None:
    [gone] = claimed(client)
    client.ack(gone)
    [held] = claimed(client)
    with pytest.raises(LeaseLost, match=f"task {gone.id}:"):
        client.extend([gone, held], 600)
    lease_expires_at = client.get(held.id).lease_expires_at
    assert lease_expires_at is not None
    assert lease_expires_at > held.lease_expires_at + timedelta(seconds=500)


def test_an_expired_lease_is_lost_to_every_verb(replica: Replica, client: Client) -> None:
    client.enqueue("t", org="acme", max_attempts=9)
    [claim] = client.claim(wait_s=WAIT_S, lease_s=1)
    until(lambda: client.get(claim.id).place is not Place.CLAIMED, "the lease was reaped")
    verbs: list[Any] = [
        lambda: client.extend(claim),
        lambda: client.ack(claim),
        lambda: client.nack(claim, "late"),
        lambda: client.release(claim),
        lambda: client.snooze(claim, 5),
        lambda: client.discard(claim),
    ]
    for verb in verbs:
        with pytest.raises(LeaseLost, match=str(claim.id)):
            verb()


def test_acking_a_batch_ends_all_but_the_lost(replica: Replica, client: Client) -> None:
    first, second, third = claimed(client, 3)
    client.ack(second)
    with pytest.raises(LeaseLost, match=f"task {second.id}:"):
        client.ack([first, second, third])
    assert count_places(client)[Place.ENDED] == 3


def test_the_last_ack_of_a_claim_call_deletes_the_lease(
    dsn: str, replica: Replica, any_client: Client
) -> None:
    leases = "select count(*) from orchestrator.lease"
    *some, last = claimed(any_client, 4)
    for claim in some:
        any_client.ack(claim)
    assert ask(dsn, leases) == 1
    any_client.ack(last)
    assert ask(dsn, leases) == 0


def test_what_was_not_claimed_cannot_be_acked(client: Client) -> None:
    strangers: list[Any] = [7, [7], "abc", None]
    for stranger in strangers:
        verbs: list[Any] = [client.ack, client.extend, client.release, client.discard]
        verbs += [partial(client.nack, error="x"), partial(client.snooze, delay=1)]
        for verb in verbs:
            with pytest.raises(InvalidInput, match="what `claim` returned"):
                verb(stranger)


# Attempts -----------------------------------------------------------------------------------------


def test_a_failed_task_is_tried_again_until_its_attempts_are_spent(
    replica: Replica, any_client: Client
) -> None:
    staged = any_client.enqueue("t", org="acme", max_attempts=3)
    verdicts = []
    for attempt in (1, 2, 3):
        [claim] = any_client.claim(wait_s=WAIT_S)
        assert claim.attempt == attempt
        verdicts.append(any_client.nack(claim, ValueError(f"try {attempt}"), delay=0))
    assert verdicts == ["failed", "failed", "dead"]
    info = any_client.get(staged.id)
    assert info.status is AttemptStatus.DEAD
    assert [attempt.error for attempt in info.history] == [
        f"ValueError: try {attempt}" for attempt in (1, 2, 3)
    ]


def test_without_a_delay_a_failed_task_waits_for_its_backoff(
    replica: Replica, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At its longest, and then some more: the cap holds whatever the attempt.
    monkeypatch.setattr("random.uniform", lambda _, high: high)
    for lost, longest_s in ((0, 1), (1, 2), (2, 4), (999, 300)):
        [claim] = claimed(client)
        before = datetime.now(UTC)
        late = Claim(**{**vars(claim), "attempt": lost + 1})
        assert client.nack(late, "broken") is AttemptStatus.FAILED
        run_at = client.get(claim.id).run_at
        assert run_at is not None
        assert before <= run_at - timedelta(seconds=longest_s) <= datetime.now(UTC)


def test_any_text_of_an_error_is_kept_as_far_as_it_can_be_stored(
    replica: Replica, client: Client
) -> None:
    [claim] = claimed(client)
    client.nack(claim, "nul \0, half \ud83d, " + "x" * 10_000)
    [attempt] = client.get(claim.id).history
    assert attempt.error is not None
    assert attempt.error.startswith("nul \N{REPLACEMENT CHARACTER}, half ?, xxx")
    assert len(attempt.error) == 4_000


def test_released_and_snoozed_attempts_do_not_count(replica: Replica, client: Client) -> None:
    [claim] = claimed(client, max_attempts=1)
    client.release(claim)
    [again] = client.claim(wait_s=WAIT_S)
    assert (again.id, again.attempt) == (claim.id, 1)
    assert client.snooze(again, 3600) is AttemptStatus.SNOOZED
    info = client.get(claim.id)
    assert (info.place, info.attempt) == (Place.SCHEDULED, 0)


def test_a_discarded_task_ends_with_its_reason(replica: Replica, client: Client) -> None:
    [claim] = claimed(client)
    client.discard(claim, "customer left")
    info = client.get(claim.id)
    assert info.status is AttemptStatus.DISCARDED
    assert info.history[-1].error == "customer left"


# Steering -----------------------------------------------------------------------------------------


def test_cancel_and_retry_of_a_waiting_task(client: Client) -> None:
    staged = client.enqueue("t", org="acme")
    with pytest.raises(TaskUnfinished):
        client.retry(staged.id)
    assert client.cancel(staged.id, reason="a slip") is CancelOutcome.CANCELLED
    assert client.cancel(staged.id) is CancelOutcome.ENDED
    assert client.get(staged.id).history[-1].error == "a slip"
    client.retry(staged.id)
    assert client.get(staged.id).place is Place.STAGED


@pytest.mark.parametrize("verb", ["get", "cancel", "retry"])
def test_a_task_that_is_not_there_is_not_found(client: Client, verb: str) -> None:
    with pytest.raises(TaskNotFound, match="no task 123"):
        getattr(client, verb)(123)
    impossible: list[Any] = [0, -1, True, "7", 2**63, 10**5000]
    for value in impossible:
        with pytest.raises(InvalidInput, match="id"):
            getattr(client, verb)(value)


def test_pages_of_tasks_are_filtered_and_newest_first(client: Client) -> None:
    staged = client.enqueue_many(
        [TaskSpec(name=f"t{number % 2}", org=f"org{number % 3}") for number in range(12)]
    )
    ids = [task.id for task in reversed(staged)]
    assert [line.id for line in client.tasks(limit=5)] == ids[:5]
    assert [line.id for line in client.tasks(limit=5, before=ids[4])] == ids[5:10]
    client.cancel(ids[0])
    assert [line.id for line in client.tasks(status="cancelled")] == ids[:1]
    assert [line.id for line in client.tasks(place=Place.STAGED)] == ids[1:]
    assert {line.name for line in client.tasks(org="org1", name="t1")} == {"t1"}
    with pytest.raises(InvalidInput, match="place is one of staged"):
        client.tasks(place="nowhere")


def test_orgs_are_configured_and_cleared_one_value_at_a_time(dsn: str) -> None:
    with Client(dsn, name="ops") as client:
        config = client.set_org("acme", tier="premium", weight=3, burst_max=7)
        assert (config.tier, config.weight, config.burst_max) == ("premium", 3, 7)
        config = client.set_org("acme", weight=None)
        assert (config.tier, config.weight, config.burst_max) == ("premium", None, 7)
        assert client.set_org("acme", tier=None).tier == "standard"
        with pytest.raises(UnknownTier, match="use one of"):
            client.set_org("acme", tier="gold")
        with pytest.raises(InvalidInput, match="pause the org instead"):
            client.set_org("acme", burst_max=0)
    assert ask(dsn, "select array_agg(distinct actor) from orchestrator.audit_log") == ["ops"]


def test_a_paused_org_waits_until_it_is_resumed(replica: Replica, client: Client) -> None:
    with pytest.raises(UnknownOrg):
        client.resume_org("acme")
    paused = client.pause_org("acme", "unpaid")
    assert paused.paused_reason == "unpaid"
    client.enqueue("held", org="acme")
    client.enqueue("free", org="bolt")
    [claim] = client.claim(limit=2, wait_s=WAIT_S)
    assert claim.name == "free"
    assert client.resume_org("acme").paused_at is None
    [claim] = client.claim(limit=2, wait_s=WAIT_S)
    assert claim.name == "held"
