"""Connections of coroutines: who gets one, who waits, and what becomes of it afterwards."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from orchestrator import DatabaseUnavailable, OrchestratorError
from orchestrator.client import connections
from orchestrator.client.pooling import Pool

WAIT_S = 20.0


class Connection:
    """A connection without a server; `theirs` is the server's end."""

    def __init__(self) -> None:
        self._mine, self.theirs = socket.socketpair()
        self.closed = False
        self.pgconn = SimpleNamespace(
            transaction_status=TransactionStatus.IDLE, finish=self._finish
        )
        self.fileno = self._mine.fileno

    def _finish(self) -> None:
        self.closed = True
        self.pgconn.transaction_status = TransactionStatus.UNKNOWN
        self._mine.close()
        self.theirs.close()


class Maker:
    """Makes connections, once it is let."""

    def __init__(self) -> None:
        self.made: list[Connection] = []
        self.fails: Exception | None = None
        self.may = asyncio.Event()
        self.may.set()

    async def __call__(self) -> Any:
        await self.may.wait()
        if self.fails is not None:
            raise self.fails
        self.made.append(Connection())
        return self.made[-1]


def on(size: int, play: Callable[[Pool, Maker], Awaitable[None]]) -> None:
    async def main() -> None:
        maker = Maker()
        try:
            async with asyncio.timeout(WAIT_S):
                await play(Pool(maker, size), maker)
        finally:
            for made in maker.made:
                made.pgconn.finish()

    asyncio.run(main())


async def waiting(pool: Pool, count: int = 1) -> list[asyncio.Task[Any]]:
    """Return tasks that wait for a connection, in this order."""
    asking = [asyncio.create_task(pool.lend()) for _ in range(count)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert not any(each.done() for each in asking)
    return asking


def test_the_next_call_gets_the_connection_that_was_used_last() -> None:
    async def play(pool: Pool, maker: Maker) -> None:
        first, second = await pool.lend(), await pool.lend()
        pool.take_back(second)
        pool.take_back(first)
        assert await pool.lend() is first
        assert await pool.lend() is second
        assert len(maker.made) == 2

    on(2, play)


def test_who_finds_none_waits_first_come_first_served() -> None:
    async def play(pool: Pool, maker: Maker) -> None:
        only = await pool.lend()
        first, second = await waiting(pool, 2)
        pool.take_back(only)
        assert await first is only
        assert not second.done()
        pool.take_back(only)
        assert await second is only
        assert len(maker.made) == 1

    on(1, play)


def test_who_comes_while_one_waits_does_not_pass_it() -> None:
    async def play(pool: Pool, maker: Maker) -> None:
        only = await pool.lend()
        [first] = await waiting(pool)
        pool.take_back(only)
        passing = asyncio.create_task(pool.lend())
        assert await first is only
        assert not passing.done()
        pool.take_back(only)
        assert await passing is only

    on(1, play)


@pytest.mark.parametrize("turn_came", [False, True], ids=["in line", "just as its turn comes"])
def test_who_is_cancelled_while_it_waits_takes_no_connection_along(turn_came: bool) -> None:
    async def play(pool: Pool, maker: Maker) -> None:
        only = await pool.lend()
        gone, next_one = await waiting(pool, 2)
        if turn_came:
            pool.take_back(only)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        if not turn_came:
            pool.take_back(only)
        assert await next_one is only

    on(1, play)


def test_who_waits_too_long_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "POOL_TIMEOUT_S", 0.01)

    async def play(pool: Pool, maker: Maker) -> None:
        only = await pool.lend()
        with pytest.raises(DatabaseUnavailable, match="pool_size"):
            await pool.lend()
        pool.take_back(only)
        assert await pool.lend() is only

    on(1, play)


def test_a_connection_that_cannot_be_made_leaves_its_slot_to_the_next() -> None:
    async def play(pool: Pool, maker: Maker) -> None:
        maker.fails = psycopg.OperationalError("no such server")
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable, match="no such server"):
                await pool.lend()
        maker.fails = None
        connection: Any = await pool.lend()
        assert connection in maker.made

    on(1, play)


def test_who_is_cancelled_while_it_connects_leaves_its_slot_to_the_next() -> None:
    async def play(pool: Pool, maker: Maker) -> None:
        maker.may.clear()
        connecting, next_one = await waiting(pool, 2)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        maker.may.set()
        connection: Any = await next_one
        assert connection in maker.made

    on(1, play)


def test_what_the_server_closed_meanwhile_is_replaced() -> None:
    async def play(pool: Pool, maker: Maker) -> None:
        first: Any = await pool.lend()
        pool.take_back(first)
        first.theirs.close()
        assert await pool.lend() is not first
        assert first.closed

    on(1, play)


@pytest.mark.parametrize(
    "left", [TransactionStatus.INTRANS, TransactionStatus.INERROR, TransactionStatus.ACTIVE]
)
def test_what_is_left_amidst_something_is_closed(left: TransactionStatus) -> None:
    async def play(pool: Pool, maker: Maker) -> None:
        first: Any = await pool.lend()
        first.pgconn.transaction_status = left
        pool.take_back(first)
        assert first.closed
        assert await pool.lend() is not first

    on(1, play)


def test_closing_closes_what_is_idle_and_what_comes_back_and_tells_who_waits() -> None:
    async def play(pool: Pool, maker: Maker) -> None:
        idle, lent = await pool.lend(), await pool.lend()
        [waits] = await waiting(pool)
        pool.take_back(idle)
        idle = await waits
        waits, too = await waiting(pool, 2)
        pool.take_back(idle)
        pool.close()
        assert idle.closed
        pool.take_back(lent)
        assert lent.closed
        for each in (waits, too):
            with pytest.raises(OrchestratorError, match="closed"):
                await each
        assert len(maker.made) == 2

    on(2, play)
