"""procrastinate: a job is fetched and finished by one function call of the server each."""

# mypy: ignore-errors
# The peer is not installed where the types are checked.

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import procrastinate

from benchmarks.peers.drivers import common

# There is no batching on the way out: more than one job at a time is all that can be had. Beyond
# some tens its one process is busy with itself.
_FAST_CONCURRENCY = 20
# The process does not say when it listens; a notification sent earlier is found 5 s later.
_SETTLE_S = 0.5


def _app(connections: int | None = None) -> procrastinate.App:
    sizes = {} if connections is None else {"min_size": connections, "max_size": connections}
    return procrastinate.App(
        connector=procrastinate.PsycopgConnector(conninfo=common.database_url(), **sizes)
    )


class _Procrastinate:
    def version(self) -> str:
        return common.installed("procrastinate")

    def setup(self) -> None:
        async def apply() -> None:
            async with _app().open_async() as app:
                await app.schema_manager.apply_schema_async()

        asyncio.run(apply())

    def enqueue(self, load: common.Load) -> common.Sent:
        @asynccontextmanager
        async def connect() -> AsyncIterator[common.SendAsync]:
            app = _app(connections=1)
            task = app.task(name="work")(_nothing)
            async with app.open_async():
                if load.bulk:
                    yield lambda payloads: task.batch_defer_async(*payloads)
                else:
                    yield lambda payloads: task.defer_async(**payloads[0])

        return common.enqueue_from_coroutines(load, connect)

    def work(self, work: common.Work, report: common.Report) -> None:
        app = _app(connections=_FAST_CONCURRENCY if work.fast else None)

        @app.task(name="work")
        async def handle(org: str, n: int, sent_ns: int, pad: str) -> None:
            report.started(org, n, sent_ns)

        async def run() -> None:
            options = {"concurrency": _FAST_CONCURRENCY} if work.fast else {}
            async with app.open_async(), asyncio.TaskGroup() as group:
                group.create_task(app.run_worker_async(**options))  # ends on SIGTERM
                await asyncio.sleep(_SETTLE_S)
                report.ready()

        asyncio.run(run())

    def pending(self) -> int:
        async def count() -> int:
            async with _app(connections=1).open_async() as app:
                queues = await app.job_manager.list_queues_async()
            return sum(queue["todo"] + queue["doing"] for queue in queues)

        return asyncio.run(count())


async def _nothing(**_: object) -> None:
    """Stand for the task where it is only enqueued."""


if __name__ == "__main__":
    # It warns of tasks named after the main module; here they have a name of their own.
    logging.getLogger("procrastinate").setLevel(logging.ERROR)
    common.main(_Procrastinate())
