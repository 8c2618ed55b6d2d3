"""A hub on a test's database, as an API process has it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from orchestrator.client import AsyncClient
from orchestrator.client.steps import Work
from orchestrator.config import RedisSettings, Settings
from orchestrator.model import Claim
from orchestrator.server.claiming import Hub, Order
from orchestrator.store.sql import Operation
from orchestrator.wakeup.ear import Ear
from orchestrator.wakeup.heard import Heard
from orchestrator.wakeup.redis import RedisVerdicts

PATIENCE_S = 20.0
SLOWER = 20.0


async def eventually(condition: Callable[[], object]) -> None:
    """Return once something is so."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.002)


class Harness:
    """A hub and what it stands on."""

    def __init__(self, dsn: str, redis: RedisSettings | None, *, listen: bool) -> None:
        self.client = AsyncClient(dsn, settings=Settings())
        # What is proved lasts longer: a busy machine may not get to prove it anew in a second.
        self.heard = Heard(clock=lambda: time.monotonic() / SLOWER)
        self._dsn, self._redis, self._listen = dsn, redis, listen
        self.statements = 0

    async def start(self) -> None:
        """Open what needs an event loop."""
        self.shared = None if self._redis is None else RedisVerdicts(self._redis)
        ear = (lambda notified: Ear(self._dsn, self.heard, notified)) if self._listen else None
        self.hub = Hub(self.do, heard=self.heard, ear=ear, shared=self.shared)
        self.hub.start()

    async def close(self) -> None:
        """Close it all."""
        await self.hub.close()
        await self.client.close()

    async def do(self, operation: Operation, *, atomic: bool = False, pinned: bool = False) -> Any:
        """Run an operation, and count it."""
        self.statements += 1
        return await self.client._work(Work(operation=operation, atomic=atomic, pinned=pinned))

    async def claim(
        self, *queues: str, limit: int = 1, wait_s: float = 0.0, lease_s: float = 30.0
    ) -> list[Claim]:
        """Claim as a client of the API does."""
        order = Order(queues or ("default",), limit, lease_s, wait_s, "w")
        return await self.hub.claim(order)

    async def until_heard(self, queue: int = 1) -> None:
        """Return once notifications of a queue that was polled reach us."""
        await eventually(lambda: self.heard.hears(queue))

    async def until_known_empty(self, *queues: str) -> None:
        """Poll until a poll costs nothing."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                before = self.hub.looks
                assert await self.claim(*queues) == []
                if self.hub.looks == before:
                    return
                await asyncio.sleep(0.005)

    async def listen(self) -> None:
        """Poll, so that we listen, and return once notifications reach us."""
        await self.claim()
        await self.until_heard()

    async def settle(self) -> None:
        """Listen, and poll until a poll costs nothing."""
        await self.listen()
        await self.until_known_empty()

    async def until_waiting(self, count: int, queue: str = "default") -> None:
        """Return once so many calls sleep in the line of a queue."""
        lines = self.hub._lines
        await eventually(lambda: queue in lines and len(lines[queue]._asleep) >= count)


@asynccontextmanager
async def hub(
    dsn: str, redis: RedisSettings | None = None, *, listen: bool = True
) -> AsyncIterator[Harness]:
    """Run a hub until the block ends."""
    harness = Harness(dsn, redis, listen=listen)
    await harness.start()
    try:
        yield harness
    finally:
        await harness.close()


def ids(claims: Sequence[Claim]) -> list[int]:
    """Return the ids of claimed tasks."""
    return [claim.id for claim in claims]
