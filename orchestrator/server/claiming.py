"""The hub: every claim of this process's clients goes through it, and most cost no statement.

A call looks at its queues in the order it names them and takes what there is. A queue that is known
to be empty (`wakeup.empty`) is not looked at. Who finds nothing and may wait stands in the line of
each queue (`line`), in which wake-ups are handed on one by one.

What wakes a line: a notification that something was admitted; and, because a notification is only
a hint, the clock: where somebody waits, and nobody knows that the queue is empty, one waiter is
woken every `POLL_S`. Where notifications do not reach us, behind a pooler say, that is all there
is, and it comes every `DEAF_POLL_S`.

A client that hangs up while it waits leaves the line. One that hangs up during a look may just have
been given tasks: the look is ended in peace, and what it took is released at once. Only a client
that dies after its answer was sent is found out by its lease.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import structlog

from orchestrator.config import Settings
from orchestrator.errors import OrchestratorError
from orchestrator.model import AttemptStatus, Claim
from orchestrator.server.line import Line, Waiter
from orchestrator.store import leadership, staging
from orchestrator.store import queue as store
from orchestrator.store.queue import Ending
from orchestrator.store.sql import Operation
from orchestrator.telemetry import metrics
from orchestrator.wakeup.ear import Ear
from orchestrator.wakeup.empty import Verdicts
from orchestrator.wakeup.heard import Heard
from orchestrator.wakeup.redis import RedisVerdicts

log = structlog.get_logger()

POLL_S = 1.0
DEAF_POLL_S = 0.25


class Order(NamedTuple):
    """What a call asks for."""

    queues: Sequence[str]
    limit: int
    lease_s: float
    wait_s: float
    worker: str


class Do(Protocol):
    """How operations are run: `server.services.Database.do`."""

    def __call__(
        self, operation: Operation, *, atomic: bool = False, pinned: bool = False
    ) -> Awaitable[Any]:
        """Return the operation's value."""
        ...


@asynccontextmanager
async def serving_claims(do: Do, dsn: str, settings: Settings) -> AsyncIterator[Hub]:
    """Run the hub of a server process; raises `ConfigError` where Redis is asked for in vain."""
    heard = Heard(verdict_ttl_s=settings.redis.verdict_ttl_s)
    shared = RedisVerdicts(settings.redis) if settings.redis.url else None

    def ear(notified: Callable[[int], None]) -> Ear:
        patience_s = settings.database.connect_timeout_s
        return Ear(dsn, heard, notified, connect_timeout_s=patience_s)

    hub = Hub(do, heard=heard, ear=ear, shared=shared)
    hub.start()
    try:
        yield hub
    finally:
        await hub.close()


class Hub:
    """Claims for many clients over few connections, in one event loop."""

    def __init__(
        self,
        do: Do,
        *,
        heard: Heard,
        ear: Callable[[Callable[[int], None]], Ear] | None,
        shared: RedisVerdicts | None = None,
    ) -> None:
        """Prepare; `ear` makes the session that feeds `heard`, `shared` are verdicts of others."""
        self._shared = shared
        self._do = do
        self._heard = heard
        self._ear = None if ear is None else ear(self._notified)
        self._stores: list[Verdicts] = [heard] if shared is None else [heard, shared]
        self._lines: dict[str, Line] = {}
        self._by_id: dict[int, Line] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False
        self._clock: asyncio.Task[None] | None = None
        self.looks = 0

    def start(self) -> None:
        """Begin to listen, and to look at the clock."""
        if self._ear is not None:
            self._ear.start()
        self._clock = asyncio.create_task(self._poll(), name="claim poll")

    def drain(self) -> None:
        """Let nobody wait any longer; calls return what there is."""
        self._closing = True
        for line in self._lines.values():
            line.rouse()

    async def close(self) -> None:
        """Stop; what was claimed for nobody is released first."""
        self.drain()
        if self._clock is not None:
            self._clock.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._ear is not None:
            await self._ear.close()
        if self._shared is not None:
            await self._shared.close()

    async def claim(self, order: Order) -> list[Claim]:
        """Lease what the queues have ready, up to the limit; wait for something where nothing is.

        What one queue gave is returned though another failed. Raises `UnknownQueue`.
        """
        lines = [await self._line(name) for name in dict.fromkeys(order.queues)]
        if order.limit <= 0:
            return []
        deadline = time.monotonic() + (0.0 if self._closing else order.wait_s)
        waiter = Waiter()
        claims: list[Claim] = []
        for line in lines:
            line.join(waiter)
        try:
            woken: list[Line] = []
            while True:
                await self._round(woken or lines, woken, order, claims)
                for line in woken:
                    if not claims:
                        line.put_back(waiter)
                left_s = deadline - time.monotonic()
                # Both before and after: who looks, woken, is in no line that `drain` could rouse.
                if claims or self._closing or not await waiter.sleep(left_s) or self._closing:
                    return claims
                woken = waiter.take()
        except BaseException:
            self._give_back(claims)
            raise
        finally:
            gave = {claim.queue for claim in claims}
            for line in lines:
                line.leave(waiter, found=line.name in gave)

    def forget(self, claiming: asyncio.Task[list[Claim]]) -> None:
        """End a call of `claim` of which nobody will hear, and release what it took."""
        claiming.cancel()
        claiming.add_done_callback(self._orphaned)

    async def _round(
        self, lines: Sequence[Line], woken: Sequence[Line], order: Order, claims: list[Claim]
    ) -> None:
        """Look at each line until the limit is reached; add to `claims` what is found."""
        failed: OrchestratorError | None = None
        for line in lines:
            room = order.limit - len(claims)
            if not room:
                return
            try:
                claims += await self._look(line, order._replace(limit=room), line in woken)
            except OrchestratorError as error:
                log.warning("claim.failed", queue=line.name, error=str(error))
                failed = failed or error
        if failed is not None and not claims:
            raise failed

    async def _look(self, line: Line, order: Order, woken: bool) -> list[Claim]:
        """Return what a queue has, without a statement if it is known to be empty."""
        # Who was woken looks in any case: there is news, or the one before found something.
        if not woken and await self._spares(line):
            return []
        async with line.places:
            if not woken and await self._spares(line):
                return []
            look = self._spawn(self._ask(line, order))
            try:
                return await asyncio.shield(look)
            except asyncio.CancelledError:
                look.add_done_callback(self._orphaned)
                raise

    async def _spares(self, line: Line) -> bool:
        """Tell whether a look is spared, and count it."""
        spared = await self._known_empty(line)
        if spared:
            metrics.FASTPATH_HITS.labels(line.name).inc()
        return spared

    async def _known_empty(self, line: Line) -> bool:
        """Tell whether anybody knows that the queue is empty, and nobody has heard otherwise."""
        known = False
        for verdicts in self._stores:
            if line.news:
                break
            if await verdicts.is_empty(line.queue):
                known = True
                break
        # Once more: the answer may have taken a while.
        return known and not line.news

    async def _ask(self, line: Line, order: Order) -> list[Claim]:
        """Claim; where nothing is there, say so to those who ask next. The order is the proof."""
        self.looks += 1
        metrics.FASTPATH_MISSES.labels(line.name).inc()
        mark = line.mark()
        versions = [await verdicts.version(line.queue) for verdicts in self._stores]
        claims, others_hold = await self._do(_claim_or_look(line, order), pinned=True)
        metrics.claimed(line.name, claims)
        if claims:
            return list(claims)
        line.found_nothing(mark)
        if not others_hold:
            for verdicts, version in zip(self._stores, versions, strict=True):
                if version is not None:
                    await verdicts.mark_empty(line.queue, version)
        return []

    async def _line(self, name: str) -> Line:
        line = self._lines.get(name)
        if line is None:
            if self._shared is not None and self._shared.database is None:
                self._shared.database = await self._do(leadership.database_id())
            queue = await self._do(staging.queue_id(name))
            line = self._lines.setdefault(name, Line(queue, name))
            self._by_id[queue] = line
            if self._ear is not None:
                self._ear.listen(queue)
        return line

    def _notified(self, queue: int) -> None:
        self._by_id[queue].notify()

    async def _poll(self) -> None:
        """Wake lines of which nobody knows whether they are empty, now and then."""
        polled_at: dict[int, float] = {}
        while True:
            await asyncio.sleep(DEAF_POLL_S)
            now = time.monotonic()
            due = [
                line
                for line in self._lines.values()
                if line.waits
                and now - polled_at.get(line.queue, 0.0) >= (POLL_S if self._hears(line) else 0)
            ]
            known = await asyncio.gather(*map(self._known_empty, due))
            for line, empty in zip(due, known, strict=True):
                polled_at[line.queue] = now
                if not empty:
                    line.wake()

    def _hears(self, line: Line) -> bool:
        return self._heard.hears(line.queue)

    def _orphaned(self, look: asyncio.Task[list[Claim]]) -> None:
        if not look.cancelled() and look.exception() is None:
            self._give_back(look.result())

    def _give_back(self, claims: Sequence[Claim]) -> None:
        for name, group in groupby(claims, lambda claim: claim.queue):
            self._spawn(self._release(self._lines[name], list(group)))

    async def _release(self, line: Line, claims: Sequence[Claim]) -> None:
        endings = [Ending(c.dispatch_key, c.claim_id, AttemptStatus.RELEASED) for c in claims]
        try:
            await self._do(
                store.give_back(line.queue, endings, worker=None), atomic=True, pinned=True
            )
        except OrchestratorError as error:
            # Its lease ends it.
            log.warning("claim.unreleased", queue=line.name, error=str(error))
        else:
            log.info("claim.released", queue=line.name, tasks=len(claims), reason="client left")

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _claim_or_look(line: Line, order: Order) -> Operation:
    """Return the claims, and where there are none whether others hold what is there."""
    claims = yield from store.claim(
        line.queue,
        line.name,
        uuid.uuid4(),
        limit=order.limit,
        lease_s=order.lease_s,
        worker=order.worker,
    )
    others_hold = False if claims else (yield from store.any_ready(line.queue))
    return claims, others_hold
