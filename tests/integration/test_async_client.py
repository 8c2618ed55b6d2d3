"""The asynchronous client: the same verbs, and what only coroutines can do to them."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from orchestrator import (
    AsyncClient,
    AttemptStatus,
    CancelOutcome,
    Client,
    ConfigError,
    DatabaseUnavailable,
    Enqueued,
    IdempotencyConflict,
    InvalidInput,
    LeaseLost,
    OrchestratorError,
    Place,
)
from orchestrator.leader.replica import Replica
from tests.integration.conftest import ask
from tests.support.waiting import PATIENCE_S

WAIT_S = 20.0


async def until(condition: Callable[[], Awaitable[Any]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():  # noqa: ASYNC110  # what changes is in the database
            await asyncio.sleep(0.005)


async def on_engine(dsn: str, use: Callable[[AsyncClient], Awaitable[None]]) -> None:
    engine = create_async_engine(
        "postgresql+psycopg://", async_creator=lambda: psycopg.AsyncConnection.connect(dsn)
    )
    try:
        async with AsyncClient(engine) as client:
            await use(client)
        async with engine.connect() as connection:
            assert await connection.scalar(text("show enable_seqscan")) == "on"
    finally:
        await engine.dispose()


async def on_dsn(dsn: str, use: Callable[[AsyncClient], Awaitable[None]]) -> None:
    async with AsyncClient(dsn) as client:
        await use(client)


def test_both_clients_have_the_same_verbs_with_the_same_arguments() -> None:
    verbs = {name for name in vars(Client) | vars(AsyncClient) if not name.startswith("_")}
    for base in Client.__mro__:
        verbs |= {name for name in vars(base) if not name.startswith("_")}
    assert {"enqueue", "enqueue_many", "claim", "extend", "ack", "nack", "release"} <= verbs
    for name in verbs:
        mine, theirs = getattr(Client, name), getattr(AsyncClient, name)
        assert inspect.signature(mine).parameters == inspect.signature(theirs).parameters


@pytest.mark.parametrize("over", [on_dsn, on_engine])
def test_every_verb_works_as_a_coroutine(dsn: str, replica: Replica, over: Any) -> None:
    async def use(client: AsyncClient) -> None:
        await client.set_org("acme", tier="premium")
        first = await client.enqueue("t", {"x": 1}, org="acme", with_depth=True)
        await client.enqueue_many([{"name": "t", "org": "acme"}] * 3)
        await until(lambda: all_ready(client))
        claims = await client.claim(limit=4)
        assert claims[0].id == first.id
        [extension] = await client.extend(claims)
        assert not extension.cancelled
        await client.ack(claims[0])
        assert await client.nack(claims[1], "broken", delay=60) is AttemptStatus.FAILED
        assert await client.snooze(claims[2], 60) is AttemptStatus.SNOOZED
        await client.discard(claims[3], "unwanted")
        with pytest.raises(LeaseLost):
            await client.release(claims)
        assert await client.cancel(claims[2].id) is CancelOutcome.CANCELLED
        await client.retry(claims[2].id)
        assert (await client.get(first.id)).status is AttemptStatus.SUCCEEDED
        assert (await client.pause_org("acme")).paused_at is not None
        assert (await client.resume_org("acme")).paused_at is None

    async def all_ready(client: AsyncClient) -> bool:
        return len(await client.tasks(place=Place.READY)) == 4

    asyncio.run(over(dsn, use))


def test_a_hundred_concurrent_coroutines_with_one_key_get_one_task(dsn: str) -> None:
    async def main() -> None:
        async with AsyncClient(dsn) as client:
            answers = await asyncio.gather(
                *(client.enqueue("t", 1, org="acme", idempotency_key="k") for _ in range(100))
            )
            assert len({answer.id for answer in answers}) == 1
            assert sum(answer.created for answer in answers) == 1
            with pytest.raises(IdempotencyConflict):
                await client.enqueue("t", 2, org="acme", idempotency_key="k")

    asyncio.run(main())
    assert ask(dsn, "select count(*) from orchestrator.task") == 1


def test_bad_input_raises_when_it_is_awaited(dsn: str) -> None:
    async def main() -> None:
        async with AsyncClient(dsn) as client:
            answers: list[object] = await asyncio.gather(
                client.enqueue("t", org="acme"),
                client.enqueue("t", org=""),
                return_exceptions=True,
            )
        assert [type(answer) for answer in answers] == [Enqueued, InvalidInput]

    asyncio.run(main())


def test_a_waiting_claim_is_woken_by_a_notification(
    dsn: str, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.client.claiming.POLL_MIN_S", 100.0)
    monkeypatch.setattr("orchestrator.client.claiming.POLL_MAX_S", 100.0)
    listening = "select count(*) > 0 from pg_stat_activity where query ilike 'listen%%ready%%'"

    async def listens() -> Any:
        return await asyncio.to_thread(ask, dsn, listening)

    async def main() -> None:
        async with AsyncClient(dsn) as client:
            waiting = asyncio.create_task(client.claim(wait_s=60))
            await until(listens)
            staged = await client.enqueue("t", org="acme")
            async with asyncio.timeout(WAIT_S):
                [claim] = await waiting
            assert claim.id == staged.id

    asyncio.run(main())


def test_many_waiting_claims_all_get_their_task(dsn: str, replica: Replica) -> None:
    async def main() -> None:
        async with AsyncClient(dsn) as client:
            waiting = [asyncio.create_task(client.claim(wait_s=WAIT_S)) for _ in range(8)]
            staged = await client.enqueue_many([{"name": "t", "org": "acme"}] * 8)
            got = [claim.id for claims in await asyncio.gather(*waiting) for claim in claims]
            assert sorted(got) == sorted(task.id for task in staged)

    asyncio.run(main())


def test_a_cancelled_wait_leaves_the_client_usable(dsn: str, replica: Replica) -> None:
    async def main() -> None:
        async with AsyncClient(dsn) as client:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await client.claim(wait_s=60)
            await client.enqueue("t", org="acme")
            [claim] = await client.claim(wait_s=WAIT_S)
            await client.ack(claim)

    asyncio.run(main())


def test_a_cancelled_enqueue_stores_nothing_and_leaves_the_client_usable(dsn: str) -> None:
    waits = "select count(*) > 0 from pg_stat_activity where wait_event_type = 'Lock'"

    async def blocked() -> Any:
        return await asyncio.to_thread(ask, dsn, waits)

    async def main() -> None:
        async with AsyncClient(dsn) as client:
            with psycopg.connect(dsn) as holder:
                holder.execute("lock table orchestrator.staging_queue in access exclusive mode")
                enqueueing = asyncio.create_task(client.enqueue("t", org="acme"))
                await until(blocked)
                enqueueing.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await enqueueing
            assert (await client.enqueue("t", org="acme", with_depth=True)).depth == 1

    asyncio.run(main())


def test_connections_that_the_server_closed_are_replaced_unnoticed(dsn: str) -> None:
    mine = "from pg_stat_activity where application_name = 'orchestrator client'"

    async def main() -> None:
        async with AsyncClient(dsn) as client:
            await asyncio.gather(*(client.enqueue("t", org="acme") for _ in range(5)))
            ask(dsn, f"select array_agg(pg_terminate_backend(pid, 5000)) {mine}")
            for _ in range(5):
                assert (await client.enqueue("t", org="acme")).created

    asyncio.run(main())


def test_a_server_that_is_not_there_is_unavailable() -> None:
    async def main() -> None:
        async with AsyncClient("postgresql://127.0.0.1:1/nowhere") as client:
            with pytest.raises(DatabaseUnavailable, match="did not answer"):
                await client.enqueue("t", org="acme")

    asyncio.run(main())


def test_a_closed_client_says_so_and_closes_again(dsn: str) -> None:
    async def main() -> None:
        async with AsyncClient(dsn) as client:
            await client.enqueue("t", org="acme")
        await client.close()
        with pytest.raises(OrchestratorError, match="closed"):
            await client.enqueue("t", org="acme")

    asyncio.run(main())


def test_what_is_no_database_is_refused() -> None:
    stranger: Any = 7
    with pytest.raises(InvalidInput, match="AsyncEngine"):
        AsyncClient(stranger)
    with pytest.raises(ConfigError, match="not a PostgreSQL DSN"):
        AsyncClient("nonsense")
