"""One read of the database for all who look at the same thing.

While anybody watches, one task reads every `INTERVAL_S`, and everybody gets the same answer; when
the last one leaves, it ends. A read that takes long is repeated less often, so that looking never
costs the database more than a twentieth of one connection's time. A page that is opened takes what
was read a moment ago, and those who open one at once share a read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import structlog

from orchestrator.errors import OrchestratorError

log = structlog.get_logger()

T = TypeVar("T")

INTERVAL_S = 2.0
FRESH_S = 1.0
_COST = 20
# Feeds are few: one a screen and queue. A bound, because names come from outside.
_FEEDS_MAX = 200


@dataclass(slots=True)
class Reading(Generic[T]):
    """What was read, the how-manieth it is, and what was made of it."""

    number: int
    value: T
    at: float
    made: dict[Any, str] = field(default_factory=dict)


class Feed(Generic[T]):
    """What `read` returns, kept up to date while it is watched."""

    def __init__(
        self, read: Callable[[], Awaitable[T]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read = read
        self._clock = clock
        self._last: Reading[T] | None = None
        self._reading: asyncio.Task[Reading[T]] | None = None
        self._next: asyncio.Future[Reading[T] | None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._watchers = 0
        self.reads = 0

    @property
    def idle(self) -> bool:
        """Tell whether nobody watches."""
        return self._watchers == 0

    def expire(self) -> None:
        """Let the next one who asks read anew: something was changed."""
        self._last = None
        self._reading = None

    def drain(self) -> None:
        """End every stream: the process is about to end."""
        if self._keeper is not None:
            self._keeper.cancel()
        if self._next is not None and not self._next.done():
            self._next.set_result(None)

    async def latest(self) -> Reading[T]:
        """Return what was read a moment ago, or read it."""
        if self._last is not None and self._clock() - self._last.at < FRESH_S:
            return self._last
        return await self._once()

    async def watch(self) -> AsyncGenerator[Reading[T], None]:
        """Yield what is there, and then whatever is read; end where it cannot be read."""
        self._watchers += 1
        try:
            reading: Reading[T] | None = await self.latest()
            while reading is not None:
                yield reading
                reading = await self._after(reading)
        finally:
            self._watchers -= 1
            if self.idle and self._keeper is not None:
                self._keeper.cancel()
                self._keeper = None

    async def _after(self, seen: Reading[T]) -> Reading[T] | None:
        if self._last is not None and self._last.number > seen.number:
            return self._last
        if self._next is None or self._keeper is None or self._keeper.done():
            self._next = asyncio.get_running_loop().create_future()
            self._keeper = asyncio.create_task(self._keep())
        # Shielded: who leaves must not take the answer from the others that wait for it.
        return await asyncio.shield(self._next)

    async def _keep(self) -> None:
        """Read again and again, until it fails or nobody watches."""
        took_s = 0.0
        while True:
            await asyncio.sleep(max(INTERVAL_S, _COST * took_s))
            began = self._clock()
            reading = None
            try:
                reading = await self._once()
            except OrchestratorError as error:
                log.warning("dashboard.unread", reason=str(error))
            told, self._next = self._next, asyncio.get_running_loop().create_future()
            if told is not None and not told.done():
                told.set_result(reading)
            if reading is None:
                self._next = None
                return
            took_s = self._clock() - began

    async def _once(self) -> Reading[T]:
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._fetch())
        return await asyncio.shield(self._reading)

    async def _fetch(self) -> Reading[T]:
        self.reads += 1
        number = self.reads
        value = await self._read()
        reading = Reading(number, value, self._clock())
        # One that was begun before a change must not hide it.
        if self._last is None or number > self._last.number:
            self._last = reading
        return reading


class Feeds:
    """The feeds of this process, by what they are about."""

    def __init__(self) -> None:
        self._feeds: dict[tuple[str, str], Feed[Any]] = {}

    def of(self, key: tuple[str, str], read: Callable[[], Awaitable[T]]) -> Feed[T]:
        """Return the feed of this key; the first who asks says how it is read."""
        found = self._feeds.get(key)
        if found is None:
            if len(self._feeds) >= _FEEDS_MAX:
                self._feeds = {k: feed for k, feed in self._feeds.items() if not feed.idle}
            found = self._feeds[key] = Feed(read)
        return found

    def expire(self) -> None:
        """Let whoever asks next read anew."""
        for feed in self._feeds.values():
            feed.expire()

    def drain(self) -> None:
        """End every stream: the process is about to end."""
        for feed in self._feeds.values():
            feed.drain()
