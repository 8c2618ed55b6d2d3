"""Pooling: how the coroutines of a client come by connections.

SQLAlchemy's pool for coroutines is the one for threads, spoken to from a greenlet at each loan and
each return, and it cannot close what is lent when a client is forgotten without a `close`. In one
event loop nothing happens between two awaits, so a pool is a stack of connections and a number of
slots.

- A slot is one connection that is lent, or being made. Who finds none waits, first come, first
  served; a wait that is cancelled takes no slot along.
- The connection used last goes first: its session is awake, and has seen the statements.
- To give one back awaits nothing, so no cancellation comes in between. What is not idle then was
  left amidst something, and is closed.
- What the server has closed meanwhile is replaced before use, as `drop_dead` does it for threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from psycopg import AsyncConnection
from sqlalchemy.ext import asyncio as aio
from sqlalchemy.util import greenlet_spawn

from orchestrator.client import connections
from orchestrator.client.common import CLOSED
from orchestrator.client.connections import EXHAUSTED, idle, severed, unpooled
from orchestrator.errors import DatabaseUnavailable, OrchestratorError


class Pool:
    """At most `size` connections of our own, made when they are needed."""

    def __init__(self, make: Callable[[], Awaitable[AsyncConnection[Any]]], size: int) -> None:
        self._make = make
        self._slots = asyncio.Semaphore(size)
        self._idle: list[AsyncConnection[Any]] = []
        self._closed = False

    async def lend(self) -> AsyncConnection[Any]:
        """Return a connection, to be taken back.

        Raises `DatabaseUnavailable`, or another `OrchestratorError` once it is closed.
        """
        if self._slots.locked():
            await self._wait()
        else:
            await self._slots.acquire()  # at once
        try:
            if self._closed:
                raise OrchestratorError(CLOSED)
            while self._idle:
                raw = self._idle.pop()
                if not severed(raw):
                    return raw
                raw.pgconn.finish()
            with unpooled():
                return await self._make()
        except BaseException:
            self._slots.release()
            raise

    def take_back(self, raw: AsyncConnection[Any]) -> None:
        """Keep a connection for the next call."""
        if self._closed or not idle(raw):
            raw.pgconn.finish()
        else:
            self._idle.append(raw)
        self._slots.release()

    def close(self) -> None:
        """Close what is idle, and what is taken back from now on."""
        self._closed = True
        for raw in self._idle:
            raw.pgconn.finish()
        self._idle.clear()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(connections.POOL_TIMEOUT_S):
                await self._slots.acquire()
        except TimeoutError:
            raise DatabaseUnavailable(EXHAUSTED) from None


@asynccontextmanager
async def lent_by(engine: aio.AsyncEngine) -> AsyncIterator[AsyncConnection[Any]]:
    """Borrow a connection from the pool of a caller's engine."""
    with unpooled():
        pooled = await engine.raw_connection()
    raw: Any = pooled.driver_connection
    try:
        yield raw
    finally:
        # As SQLAlchemy's own classes do it: their pool may have something to await.
        await greenlet_spawn(pooled.invalidate if raw.closed else pooled.close)
