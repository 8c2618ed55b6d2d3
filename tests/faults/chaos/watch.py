"""Takes snapshots of the database every few hundredths of a second, for the judge."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import Connection

from tests.faults.judge import reading
from tests.faults.judge.history import Sample

_INTERVAL_S = 0.05


class Watch:
    """A thread that collects samples; it comes back after the server did."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self.samples: list[Sample] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        connection: Connection[Any] | None = None
        while not self._stopped.wait(_INTERVAL_S):
            try:
                if connection is None or connection.closed:
                    connection = psycopg.connect(
                        self._dsn,
                        autocommit=True,
                        connect_timeout=2,
                        application_name="chaos watch",
                    )
                self.samples.append(reading.sample(connection))
            except psycopg.OperationalError:
                connection = None
                time.sleep(_INTERVAL_S)
        if connection is not None:
            connection.close()
