"""Lending: how the threads of a client come by the connections of its pool.

To lend a connection and to take it back is a fifth of what a single enqueue costs a client: the
pool makes an object for each loan, takes its lock twice, and tells its listeners. So the connection
that was used last is kept, still lent as far as the pool knows, and the next call takes that.

- One is kept: what calls at the same time need beyond it comes from the pool, and goes back there.
- Nobody waits in the pool for what is kept. Who turns to the pool says so first, and looks once
  more; who has kept one looks afterwards whether anybody has said so. Whichever comes first, one of
  them sees the other. It is the same with closing.
- What the server has closed meanwhile is replaced before use, as the pool does it (`drop_dead`).

A pool of the caller's is the caller's: there nothing is kept, and nothing looked at.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from psycopg import Connection
from sqlalchemy import Engine
from sqlalchemy.pool import PoolProxiedConnection

from orchestrator.client.connections import idle, severed, unpooled


class Loan(NamedTuple):
    """A connection, and what the pool knows it by."""

    pooled: PoolProxiedConnection
    raw: Connection[Any]


class Lending:
    """Lends the connections of one pool to any number of threads; `mine` is one of our own."""

    def __init__(self, engine: Engine, *, mine: bool) -> None:
        self._engine = engine
        self._mine = mine
        self._closed = False
        # What adds to these and what takes away is one step to other threads.
        self._kept: deque[Loan] = deque()
        self._asking: deque[None] = deque()

    def lend(self) -> Loan:
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

    def take_back(self, loan: Loan) -> None:
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

    def _take(self) -> Loan | None:
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


def _give_back(loan: Loan, *, whole: bool) -> None:
    if not whole:
        loan.pooled.invalidate()
    loan.pooled.close()
