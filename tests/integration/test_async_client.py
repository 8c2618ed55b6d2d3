"""The asynchronous client: the same verbs, and what only coroutines can do to them."""

import asyncio
import inspect
import subprocess
import sys
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
from orchestrator.client.steps import Work
from orchestrator.config import DatabaseSettings, Settings
from orchestrator.leader.replica import Replica
from orchestrator.store.sql import Call, just
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


LOCK = "lock table orchestrator.staging_queue in access exclusive mode"
STUCK = """
select pid from pg_stat_activity
 where wait_event_type = 'Lock' and application_name = 'orchestrator client'
"""
MINE = "select count(*) from pg_stat_activity where application_name = 'orchestrator client'"


async def stuck(dsn: str) -> int:
    """Return the process id of a session that waits for a lock, once one does."""
    found: list[int] = []

    async def look() -> bool:
        pid = await asyncio.to_thread(ask, dsn, STUCK)
        found.extend([pid] if pid else [])
        return bool(found)

    await until(look)
    return found[0]


def test_an_enqueue_whose_outcome_is_unknown_says_so(dsn: str) -> None:
    async def main() -> None:
        async with AsyncClient(dsn) as client:
            await client.enqueue("t", org="acme")
            with psycopg.connect(dsn) as holder:
                holder.execute(LOCK)
                enqueueing = asyncio.create_task(client.enqueue("t", org="acme"))
                ask(dsn, "select pg_terminate_backend(%s)", await stuck(dsn))
                with pytest.raises(DatabaseUnavailable, match=r"unknown.*idempotency_key") as lost:
                    await enqueueing
                assert lost.value.in_doubt
            assert (await client.enqueue("t", org="acme")).created

    asyncio.run(main())
    assert ask(dsn, "select count(*) from orchestrator.task") == 2


def test_a_statement_that_the_server_refused_is_no_unknown_outcome(dsn: str) -> None:
    async def main() -> None:
        with psycopg.connect(dsn) as holder:
            async with AsyncClient(dsn + "&options=-c%20lock_timeout%3D50ms") as client:
                holder.execute(LOCK)
                with pytest.raises(DatabaseUnavailable, match="lock timeout") as refused:
                    await client.enqueue("t", org="acme")
                assert not refused.value.in_doubt
                holder.rollback()
                assert (await client.enqueue("t", org="acme")).created

    asyncio.run(main())


def test_a_pool_that_stays_in_use_says_so_and_who_waits_gets_the_connection_next(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(database=DatabaseSettings(pool_size=1))

    async def main() -> None:
        async with AsyncClient(dsn, settings=settings) as client:
            first = await client.enqueue("t", org="acme")
            with psycopg.connect(dsn) as holder:
                holder.execute(LOCK)
                enqueueing = asyncio.create_task(client.enqueue("t", org="acme"))
                await stuck(dsn)
                waiting = asyncio.create_task(client.get(first.id))
                await asyncio.sleep(0)
                monkeypatch.setattr(client._engine.sync_engine.pool, "_timeout", 0.01)
                with pytest.raises(DatabaseUnavailable, match="pool_size"):
                    await client.get(first.id)
            assert (await enqueueing).created
            assert (await waiting).id == first.id

    asyncio.run(main())


def test_a_closed_client_leaves_no_session_behind(dsn: str) -> None:
    async def main() -> None:
        client = AsyncClient(dsn)
        await client.enqueue("t", org="acme")
        with psycopg.connect(dsn) as holder:
            holder.execute(LOCK)
            enqueueing = asyncio.create_task(client.enqueue("t", org="acme"))
            await stuck(dsn)
            await client._by_itself(Work(operation=just(Call(b"select 1", {}))))
            await client.close()
            # What is under way ends as it would have.
        assert (await enqueueing).created

        async def gone() -> bool:
            return not await asyncio.to_thread(ask, dsn, MINE)

        await until(gone)

    asyncio.run(main())


@pytest.mark.parametrize("threshold", [1, None])
def test_statements_are_prepared_unless_that_is_declined(dsn: str, threshold: int | None) -> None:
    prepared = Call(b"select count(*) from pg_prepared_statements", {})

    async def main() -> None:
        async with AsyncClient(dsn, prepare_threshold=threshold) as client:
            for _ in range(3):
                await client.enqueue("t", org="acme")
            [(count,)] = await client._by_itself(Work(operation=just(prepared)))
            assert bool(count) is (threshold is not None)

    asyncio.run(main())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_on_every_loop_calls_share_end_and_are_cancelled(dsn: str, loop: str) -> None:
    async def main() -> None:
        async with AsyncClient(dsn) as client:
            await client.enqueue("t", org="acme")
            staged = await asyncio.gather(*(client.enqueue("t", org="acme") for _ in range(40)))
            assert len({each.id for each in staged}) == 40
            with psycopg.connect(dsn) as holder:
                holder.execute(LOCK)
                enqueueing = asyncio.create_task(client.enqueue("t", org="acme"))
                await stuck(dsn)
                enqueueing.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await enqueueing
            assert (await client.get(staged[0].id)).id == staged[0].id

    if loop == "uvloop":
        uvloop = pytest.importorskip("uvloop")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    else:
        asyncio.run(main())


FORK = """
import asyncio, os, sys
from orchestrator import AsyncClient, OrchestratorError

async def main():
    async with AsyncClient(sys.argv[1]) as client:
        await client.enqueue("t", org="acme")
        child = os.fork()
        if child == 0:
            try:
                await client.enqueue("t", org="acme")
            except OrchestratorError as error:
                await client.close()
                os.write(1, str(error).encode())
            os._exit(0)
        os.waitpid(child, 0)
        await client.enqueue("t", org="acme")

asyncio.run(main())
"""


def test_a_client_from_before_a_fork_says_so_and_leaves_the_parent_alone(dsn: str) -> None:
    told = subprocess.run([sys.executable, "-c", FORK, dsn], capture_output=True, check=True)
    assert b"make a new one in the child process" in told.stdout
    assert ask(dsn, "select count(*) from orchestrator.task") == 2


FORGET = """
import asyncio, gc, sys
from orchestrator import AsyncClient

async def main():
    await AsyncClient(sys.argv[1]).enqueue("t", org="acme")
    gc.collect()

asyncio.run(main())
"""


def test_a_client_that_is_forgotten_goes_quietly(dsn: str) -> None:
    ended = subprocess.run([sys.executable, "-c", FORGET, dsn], capture_output=True, check=True)
    assert ended.stderr == b""
