"""Connections between two calls: one is kept, and nobody waits in the pool for it."""

import asyncio
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from psycopg.pq import TransactionStatus

from orchestrator.client.lending import AsyncLending, Lending


class Connection:
    """A connection without a server; `theirs` is the server's end."""

    def __init__(self) -> None:
        self._mine, self.theirs = socket.socketpair()
        self.closed = False
        self.pgconn = SimpleNamespace(transaction_status=TransactionStatus.IDLE, finish=self.close)
        self.fileno = self._mine.fileno

    def close(self) -> None:
        self.closed = True
        self._mine.close()
        self.theirs.close()


class Pooled:
    """A loan as the pool sees it."""

    def __init__(self, pool: "Pool") -> None:
        self.driver_connection = Connection()
        self.detached = False
        self._pool = pool

    def invalidate(self) -> None:
        self.driver_connection.close()

    def close(self) -> None:
        self._pool.returned.append(self)

    def detach(self) -> None:
        self.detached = True


class Pool:
    """An engine that notes what it is given back; each loan is a new connection."""

    def __init__(self) -> None:
        self.made: list[Pooled] = []
        self.returned: list[object] = []

    def raw_connection(self) -> Pooled:
        self.made.append(Pooled(self))
        return self.made[-1]


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool()
    yield pool
    for pooled in pool.made:
        pooled.driver_connection.close()


def lending(pool: Pool, *, mine: bool = True) -> Lending:
    engine: Any = pool
    return Lending(engine, mine=mine)


class Watched(deque[Any]):
    """Has something happen right after the next thing is added."""

    def __init__(self, happens: Callable[[], object]) -> None:
        super().__init__()
        self._happens = [happens]

    def append(self, added: Any, /) -> None:
        super().append(added)
        if self._happens:
            self._happens.pop()()


def test_the_next_call_gets_the_connection_of_the_last_one(pool: Pool) -> None:
    lends = lending(pool)
    first = lends.lend()
    lends.take_back(first)
    assert lends.lend() is first
    assert not pool.returned


def test_what_is_used_at_the_same_time_goes_back_to_the_pool(pool: Pool) -> None:
    lends = lending(pool)
    first, second = lends.lend(), lends.lend()
    lends.take_back(first)
    lends.take_back(second)
    assert pool.returned == [second.pooled]
    assert not second.raw.closed


def test_who_is_about_to_wait_in_the_pool_finds_what_was_kept_just_before(pool: Pool) -> None:
    lends = lending(pool)
    first = lends.lend()

    def kept_just_before() -> None:
        lends._asking.clear()
        lends.take_back(first)
        lends._asking.append(None)

    # It had looked already, and says now that it asks.
    lends._asking = Watched(kept_just_before)
    assert lends.lend() is first
    assert not pool.returned


def test_what_is_taken_back_while_somebody_waits_goes_to_the_pool(pool: Pool) -> None:
    lends = lending(pool)
    first = lends.lend()
    # Another thread asks right after the connection was kept, and has looked for it before.
    lends._kept = Watched(lambda: lends._asking.append(None))
    lends.take_back(first)
    assert pool.returned == [first.pooled]
    assert not first.raw.closed


def test_what_the_server_closed_meanwhile_is_replaced(pool: Pool) -> None:
    lends = lending(pool)
    first = lends.lend()
    lends.take_back(first)
    pool.made[0].driver_connection.theirs.close()
    assert lends.lend() is not first
    assert pool.returned == [first.pooled]
    assert first.raw.closed


def test_what_is_left_in_a_transaction_is_closed(pool: Pool) -> None:
    lends = lending(pool)
    first = lends.lend()
    pool.made[0].driver_connection.pgconn.transaction_status = TransactionStatus.INTRANS
    lends.take_back(first)
    assert first.raw.closed
    assert lends.lend() is not first


def test_closing_closes_what_is_kept_and_what_comes_back_later(pool: Pool) -> None:
    lends = lending(pool)
    first, second = lends.lend(), lends.lend()
    lends.take_back(first)
    lends.close()
    assert first.raw.closed
    lends.take_back(second)
    assert second.raw.closed


def test_what_is_taken_back_amidst_a_close_is_closed(pool: Pool) -> None:
    lends = lending(pool)
    first = lends.lend()
    lends._kept = Watched(lambda: setattr(lends, "_closed", True))
    lends.take_back(first)
    assert first.raw.closed


def test_of_a_pool_of_the_callers_nothing_is_kept(pool: Pool) -> None:
    lends = lending(pool, mine=False)
    first = lends.lend()
    lends.take_back(first)
    assert pool.returned == [first.pooled]
    assert not first.raw.closed


class AsyncPool(Pool):
    """An engine for coroutines; who asks waits until it may have one."""

    def __init__(self) -> None:
        super().__init__()
        self.may = asyncio.Event()
        self.may.set()

    async def raw_connection(self) -> Pooled:  # type: ignore[override]
        await self.may.wait()
        return super().raw_connection()


def awaited(
    play: Callable[[AsyncLending, AsyncPool], Awaitable[None]], *, mine: bool = True
) -> None:
    """Play on a pool for coroutines."""

    async def main() -> None:
        pool = AsyncPool()
        engine: Any = pool
        try:
            await play(AsyncLending(engine, mine=mine), pool)
        finally:
            for pooled in pool.made:
                pooled.driver_connection.close()

    asyncio.run(main())


def test_the_next_coroutine_gets_the_connection_of_the_last_one() -> None:
    async def play(lends: AsyncLending, pool: AsyncPool) -> None:
        first, second = await lends.lend(), await lends.lend()
        await lends.take_back(first)
        await lends.take_back(second)
        assert pool.returned == [second.pooled]
        assert await lends.lend() is first

    awaited(play)


def test_what_is_taken_back_while_a_coroutine_waits_goes_to_the_pool() -> None:
    async def play(lends: AsyncLending, pool: AsyncPool) -> None:
        first = await lends.lend()
        pool.may.clear()
        waits = asyncio.create_task(lends.lend())
        await asyncio.sleep(0)
        await lends.take_back(first)
        assert pool.returned == [first.pooled]
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        # Nobody waits any more.
        pool.may.set()
        second = await lends.lend()
        await lends.take_back(second)
        assert await lends.lend() is second

    awaited(play)


@pytest.mark.parametrize(
    "left", [TransactionStatus.INTRANS, TransactionStatus.INERROR, TransactionStatus.ACTIVE]
)
def test_what_a_coroutine_leaves_amidst_something_is_closed(left: TransactionStatus) -> None:
    async def play(lends: AsyncLending, pool: AsyncPool) -> None:
        first = await lends.lend()
        pool.made[0].driver_connection.pgconn.transaction_status = left
        await lends.take_back(first)
        assert pool.made[0].detached
        assert await lends.lend() is not first

    awaited(play)


def test_what_the_server_closed_between_two_coroutines_is_replaced() -> None:
    async def play(lends: AsyncLending, pool: AsyncPool) -> None:
        first = await lends.lend()
        await lends.take_back(first)
        pool.made[0].driver_connection.theirs.close()
        assert await lends.lend() is not first
        assert pool.made[0].detached

    awaited(play)


@pytest.mark.parametrize("how", ["closed", "forgotten"])
def test_a_client_of_coroutines_that_is_left_closes_what_was_kept(how: str) -> None:
    async def play(lends: AsyncLending, pool: AsyncPool) -> None:
        first, second = await lends.lend(), await lends.lend()
        await lends.take_back(first)
        if how == "closed":
            lends.close()
            await lends.take_back(second)
            assert pool.made[1].detached
        else:
            lends.__del__()
        assert pool.made[0].detached
        assert pool.made[0].driver_connection.closed

    awaited(play)


def test_of_a_pool_of_the_callers_no_coroutine_keeps_anything() -> None:
    async def play(lends: AsyncLending, pool: AsyncPool) -> None:
        first = await lends.lend()
        await lends.take_back(first)
        assert pool.returned == [first.pooled]

    awaited(play, mine=False)
