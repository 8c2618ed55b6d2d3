"""A queue as written by hand with psycopg 3: at least once, a batch at a time.

Lease a batch in one statement, decode and handle each task of it, delete the batch as ack. Tuned as
far as that design goes: prepared statements, statistics right after a preload, two round trips for
a batch. A worker that finds less than a batch looks again a little later or, where the queue has a
channel for that, when it is notified.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, LiteralString, NamedTuple

import psycopg
from psycopg import Connection

from benchmarks.peers.drivers.common import (
    Load,
    Payload,
    Report,
    Send,
    Sent,
    Work,
    database_url,
    enqueue_from_threads,
    installed,
    sigterm,
)
from benchmarks.peers.drivers.options import work_option

BATCH = 100
FAST_BATCH = 500
# Rows of one insert in bulk.
_BULK = 5_000
_LOOK_AGAIN_S = 0.02
# Whoever is notified looks by itself too: SIGTERM does not end a wait for notifications.
_NOTIFIED_S = 0.5
_NAME = "noop"


class Statements(NamedTuple):
    """What makes one such queue: SQL by what it does; leasing takes the size of the batch."""

    create: Sequence[LiteralString]
    lease: LiteralString
    insert: LiteralString = "insert into job (name, org, payload) values (%s, %s, %s::jsonb)"
    insert_many: LiteralString = """
        insert into job (name, org, payload)
        select %s, given.org, given.payload::jsonb
          from unnest(%s::text[], %s::text[]) as given (org, payload)
    """
    ack: LiteralString = "delete from job where id = any (%s::bigint[])"
    pending: LiteralString = "select count(*) from job"
    #: After a preload: without statistics on the new rows the lease of raw was seen to fall to a
    #: third.
    analyze: LiteralString = "analyze job"
    #: Makes notifications wake the workers; without it they look again every 20 ms.
    listen: LiteralString = ""


class Handwritten:
    """The driver of one such queue."""

    def __init__(self, name: str, statements: Statements) -> None:
        self._name = name
        self._sql = statements
        self._batch = int(work_option("batch"))

    def version(self) -> str:
        """Return its name, and that of what it is written with."""
        return f"{self._name} ({installed('psycopg')})"

    def setup(self) -> None:
        """Create the tables."""
        with connected() as connection:
            for statement in self._sql.create:
                connection.execute(statement)

    def enqueue(self, load: Load) -> Sent:
        """Insert one task a call, or many with `bulk`; then bring the statistics up to date."""
        sent = enqueue_from_threads(load, lambda: self._sending(load.bulk), _BULK)
        if load.bulk:
            with connected() as connection:
                connection.execute(self._sql.analyze)
        return sent

    def work(self, work: Work, report: Report) -> None:
        """Lease, handle and ack batches until SIGTERM."""
        batch = self._batch or (FAST_BATCH if work.fast else BATCH)
        stop = sigterm()
        with connected() as connection:
            if self._sql.listen:
                connection.execute(self._sql.listen)
            report.ready()
            while not stop.is_set():
                leased = connection.execute(
                    self._sql.lease, [batch], prepare=True, binary=True
                ).fetchall()
                for _, text in leased:
                    _handle(report, json.loads(text))
                if leased:
                    connection.execute(self._sql.ack, [[row[0] for row in leased]], prepare=True)
                if len(leased) >= batch:
                    continue
                if self._sql.listen:
                    await_notice(connection)
                else:
                    stop.wait(_LOOK_AGAIN_S)

    def pending(self) -> int:
        """Count the rows: whatever is acknowledged is deleted."""
        with connected() as connection:
            row = connection.execute(self._sql.pending).fetchone()
        return int(row[0]) if row else 0

    @contextmanager
    def _sending(self, bulk: bool) -> Iterator[Send]:
        with connected() as connection:
            yield lambda payloads: self._send(connection, payloads, bulk)

    def _send(self, connection: Connection[Any], payloads: list[Payload], bulk: bool) -> None:
        if bulk:
            orgs = [payload["org"] for payload in payloads]
            texts = [json.dumps(payload) for payload in payloads]
            connection.execute(self._sql.insert_many, [_NAME, orgs, texts], prepare=True)
        else:
            (payload,) = payloads
            given = [_NAME, payload["org"], json.dumps(payload)]
            connection.execute(self._sql.insert, given, prepare=True)


@contextmanager
def connected() -> Iterator[Connection[Any]]:
    """Yield an autocommit connection to the database under test."""
    with psycopg.connect(database_url(), autocommit=True, connect_timeout=5) as connection:
        yield connection


def await_notice(connection: Connection[Any]) -> None:
    """Wait until the session has been notified since it last waited, for half a second at most."""
    for _ in connection.notifies(timeout=_NOTIFIED_S, stop_after=1):
        pass


def _handle(report: Report, payload: Payload) -> None:
    report.started(payload["org"], payload["n"], payload["sent_ns"])
