"""Calls of an asynchronous client that are cancelled, at each place where they wait.

Whatever the place, no slot of the pool is lost, no connection goes back amidst something, and no
answer is taken for that of another call.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from sqlalchemy.pool import QueuePool

from orchestrator import AsyncClient
from orchestrator.client.connections import idle
from orchestrator.client.steps import Work
from orchestrator.config import DatabaseSettings, Settings
from orchestrator.leader.replica import Replica
from orchestrator.store import orgs
from orchestrator.store.sql import Call, batch, just, run
from tests.integration.conftest import ask
from tests.support.cancelling import Reached, cancelled_at

WAIT_S = 60.0
AWAITS_MAX = 200
SIZE = 2
NAMES = "select array_agg(name order by name) from orchestrator.task"

Verb = Callable[[AsyncClient, str], Coroutine[Any, Any, Any]]


async def one(client: AsyncClient, name: str) -> Any:
    return await client.enqueue(name, org="acme")


async def keyed(client: AsyncClient, name: str) -> Any:
    return await client.enqueue(name, org="acme", idempotency_key=name)


async def atomic(client: AsyncClient, name: str) -> Any:
    items = [{"name": name, "org": "acme", "queue": queue} for queue in ("default", "other")]
    return await client.enqueue_many(items)


async def claim(client: AsyncClient, name: str) -> Any:
    await client.enqueue(name, org="acme")
    return await client.claim(limit=2)


async def together(client: AsyncClient, _: str) -> Any:
    calls = [Call(b"select 1", {}), Call(b"select 2", {})]
    return await client._by_itself(Work(operation=batch(calls)))


def all_is_well(client: AsyncClient) -> None:
    """Check that nothing is lent but what is kept, and that this is idle."""
    kept, pool = client._lending._kept, client._engine.sync_engine.pool
    assert isinstance(pool, QueuePool)
    assert pool.checkedout() == (kept is not None)
    assert kept is None or (idle(kept.raw) and not kept.raw.pgconn.pipeline_status)


async def usable(client: AsyncClient) -> None:
    """Check that each of as many calls as there are connections gets its own answer."""

    async def echo(number: int) -> None:
        said = Call(b"select %(number)s::bigint", {"number": number})
        assert await client._by_itself(Work(operation=just(said))) == [(number,)]

    await asyncio.gather(*(echo(number) for number in range(2 * SIZE)))
    all_is_well(client)


def settings() -> Settings:
    return Settings(database=DatabaseSettings(pool_size=SIZE))


@pytest.mark.parametrize("fresh", [True, False], ids=["that connects", "that is connected"])
@pytest.mark.parametrize("verb", [one, keyed, atomic, claim, together])
def test_wherever_a_call_is_cancelled_the_client_stays_whole(
    dsn: str, replica: Replica, verb: Verb, fresh: bool
) -> None:
    async def cancelled(client: AsyncClient, await_: int) -> bool:
        reached = Reached()
        if not fresh:
            await verb(client, f"before {await_}")
        with suppress(asyncio.CancelledError):
            await cancelled_at(await_, verb(client, f"at {await_}"), reached)
        all_is_well(client)
        await usable(client)
        return reached.yes

    with psycopg.connect(dsn) as connection:
        run(connection, orgs.set_queue("other", actor="test"))

    async def main() -> None:
        for await_ in range(AWAITS_MAX):
            async with AsyncClient(dsn, settings=settings()) as client:
                if not await cancelled(client, await_):
                    assert await_ > 0
                    return
        raise AssertionError("it never came to an end")

    async def bounded() -> None:
        async with asyncio.timeout(WAIT_S):
            await main()

    asyncio.run(bounded())


def test_a_storm_of_cancellations_mixes_up_no_answers(dsn: str) -> None:
    chance = random.Random(7)
    stored: dict[str, int] = {}

    async def caller(client: AsyncClient, number: int) -> None:
        for turn in range(40):
            name = f"{number} {turn}"
            call = asyncio.create_task(client.enqueue(name, org="acme"))
            look = asyncio.create_task(client.tasks(name="nothing is called so"))
            for _ in range(chance.randrange(12)):
                await asyncio.sleep(0)
            if chance.random() < 0.5:
                call.cancel()
            if chance.random() < 0.5:
                look.cancel()
            with suppress(asyncio.CancelledError):
                stored[name] = (await call).id
            with suppress(asyncio.CancelledError):
                assert await look == []

    async def main() -> None:
        async with asyncio.timeout(WAIT_S), AsyncClient(dsn, settings=settings()) as client:
            await asyncio.gather(*(caller(client, number) for number in range(8)))
            await usable(client)
            for name, task_id in list(stored.items())[::7]:
                assert (await client.get(task_id)).name == name

    asyncio.run(main())
    assert len(stored) > 80
    assert set(stored) <= set(ask(dsn, NAMES))


async def until(condition: Callable[[], Awaitable[Any]]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await condition():  # noqa: ASYNC110  # what changes is in the database
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("statements", [1, 2])
def test_a_cancelled_statement_is_cancelled_at_the_server(dsn: str, statements: int) -> None:
    """A lone one leaves its connection to the next call; one of several gives it up."""
    locked = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
    ours = "select count(*) from pg_stat_activity where application_name = 'orchestrator client'"
    calls = [Call(b"select count(*) from orchestrator.staging_queue", {})] * statements
    pid = Call(b"select pg_backend_pid()", {})

    async def main() -> None:
        async def waits() -> Any:
            return await asyncio.to_thread(ask, dsn, locked)

        async def gone() -> Any:
            return not await waits() and await asyncio.to_thread(ask, dsn, ours) <= 1

        async with AsyncClient(dsn, settings=settings()) as client:
            before = await client._by_itself(Work(operation=just(pid)))
            with psycopg.connect(dsn) as holder:
                holder.execute("lock table orchestrator.staging_queue in access exclusive mode")
                stuck = asyncio.create_task(client._by_itself(Work(operation=batch(calls))))
                await until(waits)
                stuck.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await stuck
                # While the lock is still held.
                await until(gone)
            after = await client._by_itself(Work(operation=just(pid)))
            assert (after == before) is (statements == 1)
            await usable(client)

    asyncio.run(main())
