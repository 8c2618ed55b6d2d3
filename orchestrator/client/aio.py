"""The asynchronous client, for one event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import psycopg
from psycopg import AsyncConnection
from sqlalchemy.ext import asyncio as aio

from orchestrator.client import gathering
from orchestrator.client.claiming import Claiming
from orchestrator.client.connections import (
    ACCEPTED,
    URL,
    Access,
    check_dialect,
    drop_dead,
    given,
    plain,
    pool_options,
    translating,
)
from orchestrator.client.explaining import Explaining
from orchestrator.client.gathering import Joint, Line, Seat, Turn
from orchestrator.client.lending import AsyncLending
from orchestrator.client.operating import Operating
from orchestrator.client.producing import Producing
from orchestrator.client.specs import shown
from orchestrator.client.steps import Awaiting, Pause, Steps, Work, arranged
from orchestrator.config import Settings
from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.store.names import ready_channel
from orchestrator.store.sql import arun
from orchestrator.store.wire import AsyncWired

T = TypeVar("T")


class AsyncClient(Producing, Claiming, Operating, Explaining, Awaiting):
    """Every verb of `Client`, as a coroutine; made and used in one event loop.

    `database` is a DSN, a SQLAlchemy `AsyncEngine` over psycopg 3, or None for what the
    configuration names (`DATABASE_URL`). The other arguments are those of `Client`.
    """

    def __init__(
        self,
        database: str | aio.AsyncEngine | None = None,
        *,
        settings: Settings | None = None,
        name: str | None = None,
        prepare_threshold: int | None = 1,
    ) -> None:
        dsn, settings = given(database, settings)
        super().__init__(settings, name)
        self._access: Access | None = None
        self._ear: _Ear | None = None
        self._lines: dict[int, Line] = {}
        # The loop itself would let go of a task that nobody holds.
        self._leading: set[asyncio.Task[None]] = set()
        if isinstance(database, aio.AsyncEngine):
            check_dialect(database.sync_engine)
            self._engine = database
        elif isinstance(dsn, str):
            access = Access(dsn, settings.database, prepare_threshold=prepare_threshold)
            self._access = access
            self._ear = _Ear(access)
            self._engine = aio.create_async_engine(
                URL, async_creator=lambda: connect(access), **pool_options(settings.database)
            )
            drop_dead(self._engine.sync_engine)
        else:
            raise InvalidInput(
                f"AsyncClient takes a DSN or a SQLAlchemy AsyncEngine, not {shown(database)}"
            )
        self._lending = AsyncLending(self._engine, mine=self._access is not None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections this client made; an AsyncEngine it was given stays open."""
        mine = not self._closed and self._pid == os.getpid()
        self._closed = True
        if mine and self._ear is not None:
            self._lending.close()
            await self._ear.close()
            await self._engine.dispose()

    async def _drive(self, steps: Steps[T]) -> T:
        answer: Any = None
        failure: OrchestratorError | None = None
        while True:
            try:
                step = steps.send(answer) if failure is None else steps.throw(failure)
            except StopIteration as done:
                value: T = done.value
                return value
            answer = failure = None
            if isinstance(step, Pause):
                await self._pause(step)
                continue
            try:
                answer = await self._work(step)
            except OrchestratorError as error:
                # The verb's to judge: part of what it does may be done.
                failure = error

    async def _work(self, work: Work) -> Any:
        if work.joint is None:
            return await self._by_itself(work)
        self._check_usable()
        return await self._joined(work, work.joint)

    async def _joined(self, work: Work, joint: Joint) -> Any:
        line = self._lines.get(joint.queue)
        if line is None:
            line = self._lines.setdefault(joint.queue, Line(gathering.LINGER_PART))
        seat = _Seat(joint, partial(self._start_leading, line, work.doubt))
        if line.enter(seat):
            try:
                return await self._by_itself(work)
            finally:
                line.leave(seat)
        if seat.turn is Turn.LEAD:
            await self._linger(line, seat)
        try:
            await seat.wait(line)
        finally:
            line.withdraw(seat)
        if seat.turn is Turn.ALONE:
            return await self._by_itself(work)
        return seat.outcome()

    async def _linger(self, line: Line, seat: _Seat) -> None:
        try:
            await seat.linger()
        except BaseException:
            # Cancelled: nothing of it is under way, and whoever came meanwhile goes without it.
            line.leave(seat)
            raise
        seat.lead()

    def _start_leading(self, line: Line, doubt: str, seat: Seat) -> None:
        # A task of its own: a caller that is cancelled takes nobody else's statement along.
        leading = asyncio.create_task(self._lead(line, seat, doubt))
        self._leading.add(leading)

        def ended(_: object) -> None:
            self._leading.discard(leading)
            line.leave(seat)

        # Not within it: a task that is cancelled before it starts runs nothing of itself.
        leading.add_done_callback(ended)

    async def _lead(self, line: Line, seat: Seat, doubt: str) -> None:
        try:
            work = Work(operation=line.gather(seat), doubt=doubt)
            seat.answered(await self._by_itself(work))
        except Exception as error:  # noqa: BLE001  # raised where each that rides along is called
            seat.failed(error)

    async def _by_itself(self, work: Work) -> Any:
        self._check_usable()
        if work.connection is not None:
            return await self._on(await borrowed(work.connection), work)
        loan = await self._lending.lend()
        try:
            return await self._on(loan.raw, work)
        finally:
            await self._lending.take_back(loan)

    async def _on(self, raw: AsyncConnection[Any], work: Work) -> Any:
        pinned = self._access is not None and not self._access.pooled
        if pinned and work.connection is None and not work.atomic:
            # One of our own, where nothing has to be arranged: nearly every call.
            with translating(raw, work.doubt):
                return await arun(raw, work.operation)
        with plain(raw, psycopg.AsyncCursor):
            operation, wrapped, commits = arranged(work, raw, pinned=pinned)
            with translating(raw, work.doubt if commits else None):
                if not wrapped:
                    return await arun(raw, operation)
                async with raw.transaction():
                    return await arun(raw, operation)

    async def _pause(self, pause: Pause) -> None:
        self._check_usable()
        if self._ear is None:
            await asyncio.sleep(pause.seconds)
        else:
            await self._ear.wait(ready_channel(pause.queue), pause.seconds)


class _Seat(Seat):
    """The place of a coroutine."""

    def __init__(self, joint: Joint, start_leading: Callable[[Seat], None]) -> None:
        super().__init__(joint)
        self._loop = asyncio.get_running_loop()
        self._turned: asyncio.Future[None] = self._loop.create_future()
        # Only where it lingers.
        self._complete: asyncio.Future[None] | None = None
        self._start_leading = start_leading

    async def linger(self) -> None:
        """Sleep until the company is complete, or has been waited for long enough."""
        self._complete = self._loop.create_future()
        enough = self._loop.call_later(self.linger_s, self.ring)
        try:
            await self._complete
        finally:
            enough.cancel()

    async def wait(self, line: Line) -> None:
        """Sleep until the turn is over."""
        while not self._turned.done():
            await asyncio.wait([self._turned], timeout=gathering.PATIENCE_S)
            if not self._turned.done() and not line.take_over(self):
                await self._turned

    def lead(self) -> None:
        """Have a task lead."""
        self._start_leading(self)

    def ring(self) -> None:
        """Wake the coroutine."""
        # Who leads has not been told yet: that is about its company, and may come too late.
        awaited = self._complete if self.turn is Turn.LEAD else self._turned
        if awaited is not None and not awaited.done():
            awaited.set_result(None)


class _Ear:
    """One connection that listens. Who finds it taken just sleeps: a notification is a hint."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._lock = asyncio.Lock()
        self._connection: AsyncConnection[Any] | None = None
        self._channels: set[str] = set()

    async def wait(self, channel: str, seconds: float) -> None:
        """Sleep until something is notified on `channel`, or for so long."""
        if self._access.pooled or self._lock.locked():
            await asyncio.sleep(seconds)
            return
        async with self._lock:
            try:
                connection = await self._listening(channel)
                async for _ in connection.notifies(timeout=seconds, stop_after=1):
                    pass
            except (psycopg.Error, OrchestratorError):
                await self._hang_up()
                await asyncio.sleep(seconds)

    async def close(self) -> None:
        """Hang up once nobody waits any more."""
        async with self._lock:
            await self._hang_up()

    async def _listening(self, channel: str) -> AsyncConnection[Any]:
        if self._connection is None:
            self._connection = await connect(self._access)
        if channel not in self._channels:
            await self._connection.execute(f"listen {channel}".encode())
            self._channels.add(channel)
        return self._connection

    async def _hang_up(self) -> None:
        if self._connection is not None:
            await self._connection.close()
        self._connection = None
        self._channels.clear()


async def connect(access: Access) -> AsyncConnection[Any]:
    """Open one connection of a client's own."""
    try:
        raw = await AsyncWired.connect(**access.parameters())
    except psycopg.OperationalError as error:
        if not access.refused(error):
            raise
        raw = await AsyncWired.connect(**access.parameters())
    try:
        # What is prepared is the wire's, where there is one, and behind a pooler nobody's.
        prepares, raw.prepare_threshold = raw.prepare_threshold is not None, None
        access.learn(raw, await arun(raw, access.probe()))
        if prepares and not access.pooled:
            raw.lay_wire()
    except BaseException:
        await raw.close()
        raise
    return raw


async def borrowed(lender: object) -> AsyncConnection[Any]:
    """Return the psycopg connection beneath the caller's; raise `InvalidInput` where there is none.

    A SQLAlchemy connection is told that its transaction has begun, else its `commit` would do
    nothing.
    """
    if isinstance(lender, AsyncConnection):
        return lender
    if isinstance(lender, aio.AsyncSession | aio.async_scoped_session):
        connection = await lender.connection()
    elif isinstance(lender, aio.AsyncConnection):
        connection = lender
    else:
        raise InvalidInput(ACCEPTED.format(kind="Async", given=shown(lender)))
    if not connection.in_transaction():
        await connection.begin()
    raw = (await connection.get_raw_connection()).driver_connection
    if not isinstance(raw, AsyncConnection):
        raise InvalidInput(ACCEPTED.format(kind="Async", given=f"one over {type(raw).__module__}"))
    return raw
