"""Workers of a benchmark: they hold each task for its time without using a processor."""

from __future__ import annotations

import threading
import time
from heapq import heappop, heappush
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import Connection

from benchmarks.stage import QUEUE
from orchestrator.model import AttemptStatus, Claim
from orchestrator.store import queue
from orchestrator.store.queue import Ending
from orchestrator.store.sql import run, session_options

_LEASE_S = 600.0
_POLL_S = 0.004


class Slots(threading.Thread):
    """So many slots on one connection: claims what is ready, acks it when its time is over.

    A task takes `duration_us` of its payload, and that is what is reported as its cost.
    """

    def __init__(self, dsn: str, count: int) -> None:
        super().__init__(name="slots", daemon=True)
        self._dsn = dsn
        self._count = count
        self._stopping = threading.Event()
        self._running: list[tuple[float, int, Claim, int]] = []
        self.error: Exception | None = None

    def stop(self) -> None:
        """Let what runs end, ack it, and return."""
        self._stopping.set()
        self.join()

    def run(self) -> None:
        """Claim and ack until `stop`."""
        try:
            with psycopg.connect(
                self._dsn, autocommit=True, prepare_threshold=1, options=session_options({})
            ) as connection:
                while self._running or not self._stopping.is_set():
                    self._ack(connection)
                    if not self._stopping.is_set():
                        self._claim(connection)
                    self._pause()
        except Exception as error:  # noqa: BLE001  # whoever started it asks
            self.error = error

    def _claim(self, connection: Connection[Any]) -> None:
        free = self._count - len(self._running)
        if not free:
            return
        claims: list[Claim] = run(
            connection,
            queue.claim(QUEUE, "default", uuid4(), limit=free, lease_s=_LEASE_S, worker="slots"),
        )
        now = time.monotonic()
        for claim in claims:
            took_us = int(claim.payload["duration_us"])
            entry = (now + took_us / 1e6, claim.dispatch_key, claim, took_us)
            heappush(self._running, entry)

    def _ack(self, connection: Connection[Any]) -> None:
        now, endings = time.monotonic(), []
        while self._running and self._running[0][0] <= now:
            _, key, claim, took_us = heappop(self._running)
            endings.append(Ending(key, claim.claim_id, AttemptStatus.SUCCEEDED, cost_us=took_us))
        if endings:
            run(connection, queue.finish(QUEUE, endings, worker="slots"))

    def _pause(self) -> None:
        """Wait for the next end, or a little where there may be something to claim."""
        pause_s = _POLL_S
        if self._running:
            pause_s = min(pause_s, self._running[0][0] - time.monotonic())
        if pause_s > 0:
            time.sleep(pause_s)
