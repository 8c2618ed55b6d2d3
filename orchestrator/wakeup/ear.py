"""Listens for many queues at once on behalf of one event loop, and proves that it still does.

A session that is silently dead, cut off by a firewall or on a server that hangs, looks like one on
which nothing happens. So it is asked several times a second with an empty query: the server answers
it without looking for a statement in it, and counts none.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine
from typing import Any

import psycopg
import structlog
from psycopg import AsyncConnection

from orchestrator.store import leadership
from orchestrator.store.names import ready_channel
from orchestrator.store.sql import arun
from orchestrator.wakeup.heard import TRUST_S, Heard

log = structlog.get_logger()

# Often enough that a slow answer or two leave no gap in what is proved.
PROOF_INTERVAL_S = TRUST_S / 4
_ANSWER_S = TRUST_S
_LET_GO_S = 0.05
_RECONNECT_S = 1.0
# Behind a pooler LISTEN means nothing; whether one is still there is looked at this often.
_POOLED_S = 60.0


class Ear:
    """One listening session; `start` and `close` it in one event loop."""

    def __init__(
        self,
        dsn: str,
        heard: Heard,
        notified: Callable[[int], None],
        *,
        connect_timeout_s: float = 5.0,
        application: str = "orchestrator ear",
    ) -> None:
        """Prepare to feed `heard`, and to call `notified` with the queue after each bump."""
        self._dsn = dsn
        self._heard = heard
        self._notified = notified
        self._connect_timeout_s = connect_timeout_s
        self._application = application
        self._wanted: set[int] = set()
        self._stirred = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def listen(self, queue: int) -> None:
        """Hear of this queue from soon on; `notified` is called once it is so."""
        if queue not in self._wanted:
            self._wanted.add(queue)
            self._stirred.set()

    def start(self) -> None:
        """Begin; the session is opened when there is a queue to hear of."""
        self._task = asyncio.create_task(self._run(), name="ear")

    async def close(self) -> None:
        """End the session."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            rest_s = _RECONNECT_S
            try:
                if self._wanted:
                    rest_s = await self._session()
                else:
                    await self._stirred.wait()
                    continue
            except (psycopg.Error, OSError, TimeoutError) as error:
                log.warning("listen.lost", error=str(error).strip() or type(error).__name__)
            finally:
                self._heard.deaf()
            await asyncio.sleep(rest_s * random.uniform(0.5, 1.5))

    async def _session(self) -> float:
        """Listen until the session is lost; return when to try again where it cannot work."""
        connection = await AsyncConnection.connect(
            self._dsn,
            autocommit=True,
            prepare_threshold=None,
            connect_timeout=max(1, round(self._connect_timeout_s)),
            application_name=self._application,
        )
        try:
            guard = await _bounded(connection, arun(connection, leadership.guard(["port"])))
            if guard.backend_pid != connection.info.backend_pid:
                log.warning("listen.pooled", hint="give this process a direct DSN, or use Redis")
                return _POOLED_S
            await self._attend(connection)
        finally:
            # Not `close`: there is nothing to say to a server that may not answer.
            connection.pgconn.finish()
        return 0.0

    async def _attend(self, connection: AsyncConnection[Any]) -> None:
        channels: dict[str, int] = {}
        while True:
            self._stirred.clear()
            for queue in sorted(self._wanted - set(channels.values())):
                channel = ready_channel(queue)
                await _bounded(connection, connection.execute(f"listen {channel}".encode()))
                channels[channel] = queue
                self._heard.listening(queue)
                self._notified(queue)
            asked_at = self._heard.clock()
            await _bounded(connection, connection.execute(b""))
            # What came with the answer, before the answer counts as a proof.
            async for notice in connection.notifies(timeout=0):
                queue = channels[notice.channel]
                self._heard.bump(queue)
                self._notified(queue)
            self._heard.proved(asked_at)
            await self._stir(connection)

    async def _stir(self, connection: AsyncConnection[Any]) -> None:
        """Sleep until the server has something to say, a queue is added, or it is time to ask."""
        loop, fd = asyncio.get_running_loop(), connection.fileno()
        loop.add_reader(fd, self._stirred.set)
        try:
            async with asyncio.timeout(PROOF_INTERVAL_S):
                await self._stirred.wait()
        except TimeoutError:
            pass
        finally:
            loop.remove_reader(fd)


async def _bounded(connection: AsyncConnection[Any], asking: Coroutine[Any, Any, Any]) -> Any:
    """Return the answer; after `_ANSWER_S` give the connection up and raise `TimeoutError`."""
    task = asyncio.ensure_future(asking)
    try:
        done, _ = await asyncio.wait([task], timeout=_ANSWER_S)
    except asyncio.CancelledError:
        await _give_up(connection, task)
        raise
    if not done:
        await _give_up(connection, task)
        raise TimeoutError(f"no answer within {_ANSWER_S:g} s")
    return task.result()


async def _give_up(connection: AsyncConnection[Any], task: asyncio.Future[Any]) -> None:
    """Close a connection that does not answer, without waiting for it."""
    # Cancelled, a statement asks the server to end it and waits for that, for seconds if the server
    # is gone; before, it lets go of the socket, and not until then may that be closed.
    task.cancel()
    await asyncio.wait([task], timeout=_LET_GO_S)
    connection.pgconn.finish()
