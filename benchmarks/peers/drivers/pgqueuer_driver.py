"""pgqueuer: batches in both directions, over asyncpg and uvloop as its documentation recommends."""

# mypy: ignore-errors
# The peer is not installed where the types are checked.

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.errors import FailingListenerError
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from benchmarks.peers.drivers import common

_ENTRYPOINT = "work"
_FAST_BATCH = 500
_FAST_CONNECTIONS = 5
_PROBE = timedelta(seconds=0.1)


@asynccontextmanager
async def _queries() -> AsyncIterator[Queries]:
    connection = await asyncpg.connect(common.database_url())
    try:
        yield Queries.from_asyncpg_connection(connection)
    finally:
        await connection.close()


@asynccontextmanager
async def _worker(fast: bool) -> AsyncIterator[PgQueuer]:
    if fast:
        async with asyncpg.create_pool(
            common.database_url(), min_size=_FAST_CONNECTIONS, max_size=_FAST_CONNECTIONS
        ) as pool:
            yield PgQueuer.from_asyncpg_pool(pool)
    else:
        connection = await asyncpg.connect(common.database_url())
        yield PgQueuer.from_asyncpg_connection(connection)
        await connection.close()


class _Pgqueuer:
    def version(self) -> str:
        return common.installed("pgqueuer")

    def setup(self) -> None:
        async def install() -> None:
            async with _queries() as queries:
                await queries.install()

        asyncio.run(install())

    def enqueue(self, load: common.Load) -> common.Sent:
        @asynccontextmanager
        async def connect() -> AsyncIterator[common.SendAsync]:
            async with _queries() as queries:
                if load.bulk:
                    yield lambda payloads: queries.enqueue(
                        [_ENTRYPOINT] * len(payloads),
                        [json.dumps(payload).encode() for payload in payloads],
                        [0] * len(payloads),
                    )
                else:
                    yield lambda payloads: queries.enqueue(
                        _ENTRYPOINT, json.dumps(payloads[0]).encode()
                    )

        return common.enqueue_from_coroutines(load, connect, run=uvloop.run)

    def work(self, work: common.Work, report: common.Report) -> None:
        uvloop.run(_work(work.fast, report))

    def pending(self) -> int:
        async def count() -> int:
            async with _queries() as queries:
                return sum(each.count for each in await queries.queue_size())

        return asyncio.run(count())


async def _work(fast: bool, report: common.Report) -> None:
    async with _worker(fast) as worker:
        worker.entrypoint(_ENTRYPOINT)(_handler(report))
        stop = common.sigterm_async()
        running = asyncio.create_task(worker.run(**({"batch_size": _FAST_BATCH} if fast else {})))
        await _listening(worker, running)
        report.ready()
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        worker.shutdown.set()
        await running


def _handler(report: common.Report) -> Callable[[Job], object]:
    async def handle(job: Job) -> None:
        payload = json.loads(job.payload)
        report.started(payload["org"], payload["n"], payload["sent_ns"])

    return handle


async def _listening(worker: PgQueuer, running: asyncio.Task[None]) -> None:
    """Wait until a notification of the peer's own comes back to it."""
    while not running.done():
        with suppress(FailingListenerError):
            await worker.qm.listener_healthy(timeout=_PROBE)
            return


if __name__ == "__main__":
    common.main(_Pgqueuer())
