"""Lending: how the threads or coroutines of a client come by the connections of its pool.

To lend a connection and to take it back is a fifth of what a single enqueue costs a client: the
pool makes an object for each loan, takes its lock twice, and tells its listeners. So the connection
that was used last is kept, still lent as far as the pool knows, and the next call takes that.

- One is kept: what calls at the same time need beyond it comes from the pool, and goes back there.
- Nobody waits in the pool for what is kept. Who turns to the pool says so first, and looks once
  more; who has kept one looks afterwards whether anybody has said so. Whichever comes first, one of
  them sees the other. It is the same with closing.
- What the server has closed meanwhile is replaced before use, as the pool does it (`drop_dead`).
- For coroutines it is the same, and simpler: nothing happens between two awaits. To speak to their
  pool takes a greenlet each time, which costs as much as the rest of a call. What is not to be used
  again is closed without an await, in which a cancellation could come in between.

A pool of the caller's is the caller's: there nothing is kept, and nothing looked at.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Generic, NamedTuple, TypeVar

from psycopg import AsyncConnection, Connection
from sqlalchemy import Engine
from sqlalchemy.ext import asyncio as aio
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util import greenlet_spawn

from orchestrator.client.connections import idle, severed, unpooled

C = TypeVar("C")


class Loan(NamedTuple, Generic[C]):
    """A connection, and what the pool knows it by."""

    pooled: PoolProxiedConnection
    raw: C


class Lending:
    """Lends the connections of one pool to any number of threads; `mine` is one of our own."""

    def __init__(self, engine: Engine, *, mine: bool) -> None:
        self._engine = engine
        self._mine = mine
        self._closed = False
        # What adds to these and what takes away is one step to other threads.
        self._kept: deque[Loan[Connection[Any]]] = deque()
        self._asking: deque[None] = deque()

    def lend(self) -> Loan[Connection[Any]]:
        """Return a connection, to be taken back; raise `DatabaseUnavailable`."""
        kept = self._take()
        if kept is not None:
            return kept
        self._asking.append(None)
        try:
            kept = self._take()
            if kept is not None:
                return kept
            with unpooled():
                pooled = self._engine.raw_connection()
            raw: Any = pooled.driver_connection
            return Loan(pooled, raw)
        finally:
            self._asking.pop()

    def take_back(self, loan: Loan[Connection[Any]]) -> None:
        """Keep a connection for the next call, or return it to the pool."""
        if not self._mine:
            _give_back(loan, whole=not loan.raw.closed)
        elif self._closed or not idle(loan.raw):
            # A pool that was closed would take it back, and not close it.
            _give_back(loan, whole=False)
        elif self._kept:
            _give_back(loan, whole=True)
        else:
            self._kept.append(loan)
            if self._asking or self._closed:
                self._return_kept()

    def close(self) -> None:
        """Close what is kept, and what is taken back from now on."""
        self._closed = True
        self._return_kept()

    def _take(self) -> Loan[Connection[Any]] | None:
        while self._kept:
            try:
                loan = self._kept.pop()
            except IndexError:  # another thread was faster
                return None
            if not severed(loan.raw):
                return loan
            _give_back(loan, whole=False)
        return None

    def _return_kept(self) -> None:
        try:
            loan = self._kept.pop()
        except IndexError:
            return
        _give_back(loan, whole=not self._closed)


class AsyncLending:
    """Lends the connections of one pool to the coroutines of one event loop."""

    def __init__(self, engine: aio.AsyncEngine, *, mine: bool) -> None:
        self._engine = engine
        self._mine = mine
        self._closed = False
        self._kept: Loan[AsyncConnection[Any]] | None = None
        # How many wait for the pool: what comes back then is theirs.
        self._asking = 0

    def __del__(self) -> None:
        # A client that was forgotten: its pool could not close what is lent.
        self._close_kept()

    async def lend(self) -> Loan[AsyncConnection[Any]]:
        """Return a connection, to be taken back; raise `DatabaseUnavailable`."""
        kept, self._kept = self._kept, None
        if kept is not None:
            if not severed(kept.raw):
                return kept
            _part_with(kept)
        self._asking += 1
        try:
            with unpooled():
                pooled = await self._engine.raw_connection()
        finally:
            self._asking -= 1
        raw: Any = pooled.driver_connection
        return Loan(pooled, raw)

    async def take_back(self, loan: Loan[AsyncConnection[Any]]) -> None:
        """Keep a connection for the next call, or return it to the pool."""
        pooled = loan.pooled
        if not self._mine:
            # As SQLAlchemy's own classes do it: a pool of the caller may have something to await.
            await greenlet_spawn(pooled.invalidate if loan.raw.closed else pooled.close)
        elif self._closed or not idle(loan.raw):
            _part_with(loan)
        elif self._kept is None and not self._asking:
            self._kept = loan
        else:
            await greenlet_spawn(pooled.close)

    def close(self) -> None:
        """Close what is kept, and what is taken back from now on."""
        self._closed = True
        self._close_kept()

    def _close_kept(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            _part_with(kept)


def _part_with(loan: Loan[AsyncConnection[Any]]) -> None:
    """Close a connection and have the pool make another in its place; without an await."""
    loan.raw.pgconn.finish()
    loan.pooled.detach()


def _give_back(loan: Loan[Connection[Any]], *, whole: bool) -> None:
    if not whole:
        loan.pooled.invalidate()
    loan.pooled.close()
