"""oban for Python: claims in batches, acknowledges row by row in one transaction.

Set up as its own command line does: uvloop and orjson.
"""

# mypy: ignore-errors
# The peer is not installed where the types are checked.

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import psycopg
import uvloop
from oban import Job, Oban, worker
from oban.schema import install
from psycopg.types.json import set_json_dumps, set_json_loads

from benchmarks.peers.drivers import common

_DEFAULT_LIMIT = 10
# Claims and acks are as large as the room that is free: the limit is the batch.
_FAST_LIMIT = 500
# It begins to listen behind its own back, and does not say when it has.
_SETTLE_S = 0.5
_COUNT = """
select count(*) from oban_jobs
 where state in ('available', 'scheduled', 'executing', 'retryable')
"""


def _worker_class(report: common.Report | None = None) -> type:
    @worker(queue="default")
    class Work:
        async def process(self, job: Job) -> None:
            if report is not None:
                report.started(job.args["org"], job.args["n"], job.args["sent_ns"])

    return Work


class _Oban:
    def version(self) -> str:
        return common.installed("oban")

    def setup(self) -> None:
        async def apply() -> None:
            pool = await Oban.create_pool(common.database_url())
            async with pool:
                await install(pool)

        uvloop.run(apply())

    def enqueue(self, load: common.Load) -> common.Sent:
        kind = _worker_class()

        @asynccontextmanager
        async def connect() -> AsyncIterator[common.SendAsync]:
            pool = await Oban.create_pool(common.database_url(), min_size=1, max_size=1)
            async with pool:
                oban = Oban(pool=pool)  # without queues it only enqueues, and need not be started
                if load.bulk:
                    yield lambda payloads: oban.enqueue_many(map(kind.new, payloads))
                else:
                    yield lambda payloads: oban.enqueue(kind.new(payloads[0]))

        return common.enqueue_from_coroutines(load, connect, run=uvloop.run)

    def work(self, work: common.Work, report: common.Report) -> None:
        _worker_class(report)
        uvloop.run(_work(_FAST_LIMIT if work.fast else _DEFAULT_LIMIT, report))

    def pending(self) -> int:
        with psycopg.connect(common.database_url()) as connection:
            return connection.execute(_COUNT).fetchone()[0]


async def _work(limit: int, report: common.Report) -> None:
    stop = common.sigterm_async()
    pool = await Oban.create_pool(common.database_url())
    async with pool, Oban(pool=pool, queues={"default": limit}):
        await asyncio.sleep(_SETTLE_S)
        report.ready()
        await stop.wait()


if __name__ == "__main__":
    set_json_dumps(orjson.dumps)
    set_json_loads(orjson.loads)
    common.main(_Oban())
