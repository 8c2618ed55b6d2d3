"""Extends the worker's leases, and hears which tasks were cancelled, on a connection of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import psycopg
import structlog

from orchestrator.errors import OrchestratorError
from orchestrator.store import queue as store
from orchestrator.telemetry import metrics
from orchestrator.telemetry.health import Loop
from orchestrator.worker.acks import Acks
from orchestrator.worker.attempt import failed
from orchestrator.worker.buffer import Buffer
from orchestrator.worker.job import Job
from orchestrator.worker.leases import Lease, Leases
from orchestrator.worker.session import Session

log = structlog.get_logger()

# Beats within a lease: two may fail before it is lost.
_BEATS = 3
# After a beat that failed the next one comes sooner, so that a short outage costs no lease.
_RETRIES = 10


class Heartbeat:
    """Beats until `stop`."""

    def __init__(
        self,
        session: Session,
        leases: Leases,
        buffer: Buffer,
        acks: Acks,
        *,
        lease_s: float,
        loop: Loop,
    ) -> None:
        self._session = session
        self._leases = leases
        self._buffer = buffer
        self._acks = acks
        self._lease_s = lease_s
        self._loop = loop
        self._stopped = threading.Event()

    def run(self) -> None:
        """Extend what is held several times within its lease."""
        pause_s = interval_s = self._lease_s / _BEATS
        while not self._stopped.wait(pause_s):
            pause_s = interval_s if self._beat() else interval_s / _RETRIES
            self._loop.turn()
        self._session.close()

    def stop(self) -> None:
        """Let `run` end."""
        self._stopped.set()

    def _beat(self) -> bool:
        """Extend every lease; return whether the database answered for all of them."""
        answered = True
        for queue, leases in self._leases.held().items():
            try:
                self._extend(queue, leases)
            except (OrchestratorError, psycopg.Error) as error:
                log.warning("extend.failed", queue=queue, error=str(error))
                metrics.EXTEND_FAILURES.labels(metrics.named(queue)).inc()
                # Nobody tells us any more: by our own clock, then.
                self._lose([lease for lease in leases if lease.deadline < time.monotonic()])
                answered = False
        return answered

    def _extend(self, queue: int, leases: Sequence[Lease]) -> None:
        deadline = time.monotonic() + self._lease_s
        claims = [lease.claim_id for lease in leases]
        extensions = self._session.run(store.extend(queue, claims, self._lease_s))
        extended = {extension.claim_id: extension for extension in extensions}
        self._lose([lease for lease in leases if lease.claim_id not in extended])
        for lease in leases:
            if extension := extended.get(lease.claim_id):
                lease.deadline = deadline
                if extension.cancelled:
                    self._cancel(lease, extension.cancelled)

    def _lose(self, leases: Sequence[Lease]) -> None:
        # One without unfinished tasks was deleted by our own ack, a moment ago.
        lost = [lease for lease in leases if lease.unfinished]
        if not lost:
            return
        for lease in lost:
            self._leases.remove(lease)
            metrics.LEASES_LOST.labels(metrics.named(lease.queue)).inc()
            log.warning("lease.lost", claim_id=str(lease.claim_id), tasks=lease.unfinished)
        # Somebody else has them, or will have: neither started nor acknowledged by us.
        self._buffer.withdraw(lambda job: job.lease in lost)
        for job in self._buffer.running():
            if job.lease in lost:
                job.cancel()

    def _cancel(self, lease: Lease, keys: frozenset[int]) -> None:
        def asked(job: Job) -> bool:
            return job.lease is lease and job.claim.dispatch_key in keys

        for job in self._buffer.withdraw(asked):
            self._acks.put(lease, failed(job.claim, "cancelled"))
        for job in self._buffer.running():
            if asked(job):
                job.cancel()
