"""Large batches without keys: encoded part by part while the server stages the parts before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from orchestrator import (
    AsyncClient,
    Client,
    DatabaseUnavailable,
    Enqueued,
    InvalidInput,
    TaskSpec,
    UnknownQueue,
    Urgency,
)
from orchestrator.client import producing
from orchestrator.client.specs import all_encoded
from orchestrator.config import LimitsSettings
from orchestrator.store import orgs
from orchestrator.store.sql import run
from tests.integration.conftest import ask

EnqueueMany = Callable[[Iterable[Any]], list[Enqueued]]
MINE = "from pg_stat_activity where application_name = 'orchestrator client'"
STAGED = "select count(*) from orchestrator.staging_queue"
STORED = "select count(*) from orchestrator.task"


@pytest.fixture(params=[Client, AsyncClient])
def enqueue_many(
    request: pytest.FixtureRequest, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[EnqueueMany]:
    """Yield the verb of a client of either kind that sends three tasks at a time."""
    monkeypatch.setattr(producing, "STREAM_ITEMS", 3)
    if request.param is Client:
        with Client(dsn) as client:
            yield client.enqueue_many
        return
    with asyncio.Runner() as loop:
        asynchronous = AsyncClient(dsn)
        yield lambda items: loop.run(asynchronous.enqueue_many(items))
        loop.run(asynchronous.close())


def tasks(count: int, **given: Any) -> list[dict[str, Any]]:
    return [
        {"name": f"t{number}", "org": "acme", "payload": number} | given for number in range(count)
    ]


def payloads(dsn: str, enqueued: Sequence[Enqueued]) -> list[Any]:
    with psycopg.connect(dsn) as connection:
        found: dict[int, Any] = dict(
            connection.execute("select id, payload from orchestrator.task").fetchall()
        )
    return [found[each.id] for each in enqueued]


def test_answers_are_in_order_over_parts_and_queues(dsn: str, enqueue_many: EnqueueMany) -> None:
    with psycopg.connect(dsn) as connection:
        run(connection, orgs.set_queue("bulk", actor="test"))
    items = [task | {"queue": ["default", "bulk"][n % 3 == 1]} for n, task in enumerate(tasks(20))]
    enqueued = enqueue_many(iter(items))
    assert payloads(dsn, enqueued) == list(range(20))
    assert all(each.created and each.depth is None for each in enqueued)


def test_a_batch_of_one_queue_is_first_in_first_out(enqueue_many: EnqueueMany) -> None:
    ids = [each.id for each in enqueue_many(tasks(10))]
    assert ids == sorted(ids)


def test_every_field_is_stored_as_the_same_task_alone_would_be(
    dsn: str, client: Client, enqueue_many: EnqueueMany
) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    plain = TaskSpec(name="plain", org="acme")
    rare = [
        plain,
        plain,
        TaskSpec(name="other", org="b", workload="api", priority=9, payload={"ü": [None, 1.5]}),
        TaskSpec(name="tried", org="acme", max_attempts=1, timeout_s=2.5),
        plain,
        TaskSpec(name="dated", org="acme", run_at=tomorrow, headers={"trace": "7"}),
        TaskSpec(name="late", org="acme", delay=3600, expires_at=tomorrow + timedelta(days=1)),
        TaskSpec(name="urgent", org="acme", urgency=Urgency.CRITICAL),
        TaskSpec(name="info", org="acme", urgency="info", expires_at=tomorrow),
    ]
    enqueued = enqueue_many(rare)
    alone = [
        client.enqueue(**{name: getattr(spec, name) for name in spec.__dataclass_fields__})
        for spec in rare
    ]
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "select id, to_jsonb(t) - 'id' - 'created_at' - 'run_at', t.run_at is not null,"
            "       to_jsonb(s) - 'task_id' - 'xid', to_jsonb(d) - 'task_id' - 'run_at'"
            "  from orchestrator.task t"
            "  left join orchestrator.staging_queue s on s.task_id = id"
            "  left join orchestrator.scheduled_queue d on d.task_id = id"
        ).fetchall()
    stored = {task_id: rest for task_id, *rest in rows}
    assert [stored[each.id] for each in enqueued] == [stored[each.id] for each in alone]


@pytest.mark.parametrize("bad", [{"payload": {1: 2}}, {"priority": 0}, {"payload": {"at": set()}}])
@pytest.mark.parametrize("index", [0, 5, 9])
def test_an_invalid_item_anywhere_is_named_and_nothing_is_stored(
    dsn: str, enqueue_many: EnqueueMany, index: int, bad: dict[str, Any]
) -> None:
    items = tasks(10)
    items[index] |= bad
    with pytest.raises(InvalidInput, match=f"item {index}: "):
        enqueue_many(items)
    assert ask(dsn, STORED) == 0
    assert len(enqueue_many(tasks(10))) == ask(dsn, STAGED) == 10


def test_a_queue_that_is_not_there_is_named_before_anything_is_stored(
    dsn: str, enqueue_many: EnqueueMany
) -> None:
    with pytest.raises(UnknownQueue, match="item 7: "):
        enqueue_many([*tasks(7), *tasks(3, queue="none")])
    # An id that was taken would be a sign of a row that was taken back.
    assert not ask(dsn, "select is_called from orchestrator.task_id")


def test_what_the_server_refuses_in_the_middle_undoes_all_and_is_said(
    dsn: str, enqueue_many: EnqueueMany
) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "alter table orchestrator.task add check (1 / (name <> 'refused')::integer = 1)"
        )
    items = tasks(30)
    items[10]["name"] = "refused"
    with pytest.raises(InvalidInput, match="division by zero"):
        enqueue_many(items)
    assert ask(dsn, STORED) == ask(dsn, STAGED) == 0
    assert len(enqueue_many(tasks(10))) == ask(dsn, STAGED) == 10


def test_a_connection_lost_on_the_way_is_in_doubt_and_replaced(
    dsn: str, enqueue_many: EnqueueMany, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(specs: Sequence[TaskSpec], limits: LimitsSettings, at: Sequence[int]) -> list[str]:
        if 6 in at:
            assert ask(dsn, f"select bool_and(pg_terminate_backend(pid, 5000)) {MINE}")
        return all_encoded(specs, limits, at)

    with monkeypatch.context() as patched:
        patched.setattr(producing, "all_encoded", cut)
        with pytest.raises(DatabaseUnavailable, match="what happened is unknown: enqueue again"):
            enqueue_many(tasks(10))
    assert ask(dsn, STORED) == 0
    assert len(enqueue_many(tasks(10))) == ask(dsn, STAGED) == 10


def test_the_callers_items_are_gone_through_while_no_transaction_is_open(
    dsn: str, enqueue_many: EnqueueMany
) -> None:
    def slow() -> Iterator[dict[str, Any]]:
        for task in tasks(10):
            assert ask(dsn, f"select count(*) {MINE} and state <> 'idle'") == 0
            yield task

    enqueue_many(tasks(4))
    assert payloads(dsn, enqueue_many(slow())) == list(range(10))


def test_with_a_connection_of_the_callers_all_is_checked_before_anything_is_sent(
    dsn: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producing, "STREAM_ITEMS", 3)
    with psycopg.connect(dsn) as connection:
        client.enqueue("first", org="acme", connection=connection)
        with pytest.raises(InvalidInput, match="item 9: "):
            client.enqueue_many([*tasks(9), *tasks(1, payload={1: 2})], connection=connection)
        client.enqueue_many(tasks(9), connection=connection)
    assert ask(dsn, STORED) == ask(dsn, STAGED) == 10


def test_a_cancelled_call_stores_nothing_and_leaves_the_client_usable(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producing, "STREAM_ITEMS", 3)
    blocked = f"select count(*) {MINE} and wait_event_type = 'Lock'"

    async def main() -> None:
        async with AsyncClient(dsn) as client:
            await client.enqueue_many(tasks(4))
            with psycopg.connect(dsn) as holder:
                holder.execute("lock table orchestrator.staging_queue in access exclusive mode")
                enqueueing = asyncio.create_task(client.enqueue_many(tasks(10)))
                async with asyncio.timeout(20):
                    while not ask(dsn, blocked):  # noqa: ASYNC110  # what changes is in the database
                        await asyncio.sleep(0.005)
                enqueueing.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await enqueueing
            assert len(await client.enqueue_many(tasks(4))) == 4

    asyncio.run(main())
    assert ask(dsn, STORED) == ask(dsn, STAGED) == 8


@pytest.mark.parametrize("known", [True, False], ids=["of known places", "of new places"])
@pytest.mark.parametrize("field", ["name", "queue", "workload"])
def test_a_name_that_is_none_is_told_of_with_its_item(
    dsn: str, enqueue_many: EnqueueMany, field: str, known: bool
) -> None:
    if known:
        assert len(enqueue_many(tasks(4))) == 4
    before = ask(dsn, STORED)
    given = [TaskSpec(**task) for task in tasks(10)]
    wrong: Any = {field: ["no", "name"]}
    given[8] = replace(given[8], **wrong)
    with pytest.raises(InvalidInput, match=f"item 8: {field}"):
        enqueue_many(given)
    assert ask(dsn, STORED) == before
