"""DBOS: durable workflows on queues that every process polls; `--fair` partitions them by org.

It has no bulk path of its own: with `--bulk`, a batch is enqueued in one transaction of the caller,
which its client supports.
"""

# mypy: ignore-errors
# The peer is not installed where the types are checked.

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import psycopg
import sqlalchemy
from dbos import DBOS, DBOSClient

from benchmarks.peers.drivers import common

_WORKFLOW = "work"
_QUEUE = "shared"
# One running workflow of each org at a time: the case that it claims for all partitions at once.
_FAIR_QUEUE = "by_org"
_FAIR = {"partition_concurrency": 1}
# A poll claims what fits below the concurrency; nothing is pushed, so that both bound the rate.
_FAST = {"worker_concurrency": 100, "polling_interval_sec": 0.05}
# Bounds on the end, in seconds: for running workflows, and for all of it. A process that claimed a
# large backlog would first start all of that; as it is durable, leaving it is no loss.
_FINISH_S = 3
_LEAVE_S = 8.0
_COUNT = """
select count(*) from dbos.workflow_status
 where status in ('ENQUEUED', 'DELAYED', 'PENDING') and queue_name = any(%s)
"""


def _url() -> str:
    return common.database_url().replace("postgresql://", "postgresql+psycopg://", 1)


def _dbos() -> None:
    DBOS(
        config={
            "name": "benchmark",
            "system_database_url": _url(),
            "application_version": "benchmark",
            "executor_id": f"worker-{os.getpid()}",
            "log_level": "ERROR",
        }
    )


def _queue(fair: bool) -> str:
    return _FAIR_QUEUE if fair else _QUEUE


class _Dbos:
    def version(self) -> str:
        return common.installed("dbos")

    def setup(self) -> None:
        _dbos()
        DBOS.launch()
        DBOS.register_queue(_QUEUE)
        DBOS.register_queue(_FAIR_QUEUE, **_FAIR)
        DBOS.destroy()

    def enqueue(self, load: common.Load) -> common.Sent:
        engine = sqlalchemy.create_engine(_url(), pool_size=load.clients)

        @contextmanager
        def connect() -> Iterator[common.Send]:
            client = DBOSClient(system_database_url=_url(), system_database_pool_size=1)
            try:
                if not load.bulk:
                    yield partial(_send, client, load.fair)
                    return
                with engine.connect() as connection:
                    yield partial(_send_together, client, load.fair, connection)
            finally:
                client.destroy()

        return common.enqueue_from_threads(load, connect)

    def work(self, work: common.Work, report: common.Report) -> None:
        stop = common.sigterm()
        _dbos()

        @DBOS.workflow(name=_WORKFLOW)
        async def handle(payload: common.Payload) -> None:
            report.started(payload["org"], payload["n"], payload["sent_ns"])

        queue = _queue(work.fair)
        DBOS.listen_queues([queue])
        DBOS.launch()
        options = (_FAST if work.fast else {}) | (_FAIR if work.fair else {})
        DBOS.register_queue(queue, on_conflict="always_update", **options)
        report.ready()
        stop.wait()
        leaving = threading.Timer(_LEAVE_S, _leave, [report])
        leaving.daemon = True
        leaving.start()
        DBOS.destroy(workflow_completion_timeout_sec=_FINISH_S)

    def pending(self) -> int:
        with psycopg.connect(common.database_url()) as connection:
            return connection.execute(_COUNT, [[_QUEUE, _FAIR_QUEUE]]).fetchone()[0]


def _leave(report: common.Report) -> None:
    report.close()
    os._exit(0)


def _send(client: DBOSClient, fair: bool, payloads: list[common.Payload]) -> None:
    client.enqueue(_options(fair, payloads[0]), payloads[0])


def _send_together(
    client: DBOSClient,
    fair: bool,
    connection: sqlalchemy.Connection,
    payloads: list[common.Payload],
) -> None:
    with connection.begin():
        for payload in payloads:
            client.enqueue_in_transaction(connection, _options(fair, payload), payload)


def _options(fair: bool, payload: common.Payload) -> dict[str, str]:
    options = {"workflow_name": _WORKFLOW, "queue_name": _queue(fair)}
    return options | ({"queue_partition_key": payload["org"]} if fair else {})


if __name__ == "__main__":
    logging.getLogger("dbos").setLevel(logging.ERROR)
    common.main(_Dbos(), fair=True)
