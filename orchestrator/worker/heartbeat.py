"""Extends the worker's leases, and hears which tasks were cancelled or should yield.

Over a connection of its own, which no handler and no claim can keep busy.

The word is in the lease, and every beat reads it: that is the truth. A notification names a lease
in which a word was left, and the beat comes at once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import psycopg
import structlog

from orchestrator.errors import OrchestratorError
from orchestrator.store import queue as store
from orchestrator.telemetry import metrics
from orchestrator.telemetry.health import Loop
from orchestrator.wakeup.waker import Waker
from orchestrator.worker.acks import Acks
from orchestrator.worker.attempt import failed, released
from orchestrator.worker.buffer import Buffer
from orchestrator.worker.job import Job
from orchestrator.worker.leases import Lease, Leases
from orchestrator.worker.session import Session

log = structlog.get_logger()

# Beats within a lease: two may fail before it is lost.
_BEATS = 3
# After a beat that failed the next one comes sooner, so that a short outage costs no lease.
_RETRIES = 10
# Between two beats, whatever is notified: many words that are left one by one are read together.
_GAP_S = 0.05
# A lease may be named before we know that it is ours: its claim is answered, but not yet noted.
_UNKNOWN_S, _UNKNOWN_LOOK_S = 2.0, 0.1
# Names every lease.
_ALL = ""


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
        self._stopped = False
        self._waker = Waker()
        self._fd: int | None = None
        # Claims that were named and are not held, and until when that may change.
        self._named: dict[str, float] = {}

    def run(self) -> None:
        """Extend what is held several times within its lease, and whenever told to look."""
        interval_s = self._lease_s / _BEATS
        try:
            while not self._stopped:
                listening, answered = self._attend(), self._beat()
                self._loop.turn()
                self._wait(interval_s if listening and answered else interval_s / _RETRIES)
        finally:
            self._detach()
            self._session.close()
            self._waker.close()

    def stop(self) -> None:
        """Let `run` end."""
        self._stopped = True
        self._waker.wake()

    def _wait(self, pause_s: float) -> None:
        """Wait for so long, until told to look at one of our leases, or until `stop`."""
        begun_at = time.monotonic()
        while not self._stopped:
            left_s = begun_at + pause_s - time.monotonic()
            if left_s <= 0:
                return
            readable = self._waker.wait(min(left_s, _UNKNOWN_LOOK_S) if self._named else left_s)
            if self._fd in readable and not self._hear():
                # What is notified from now on is unknown: look, over another connection.
                return
            if self._is_named():
                time.sleep(max(0.0, begun_at + _GAP_S - time.monotonic()))
                return

    def _attend(self) -> bool:
        """Listen, where there is something to listen to; return whether the database lets us."""
        if self._fd is not None:
            return True
        try:
            self._fd = self._session.listen()
        except (OrchestratorError, psycopg.Error) as error:
            log.warning("listen.failed", error=str(error).strip())
            return False
        if self._fd is not None:
            self._waker.add(self._fd)
        return True

    def _detach(self) -> None:
        if self._fd is not None:
            self._waker.remove(self._fd)
            self._fd = None

    def _hear(self) -> bool:
        """Note which leases were named; return whether the connection stands."""
        try:
            heard = self._session.heard()
        except (OrchestratorError, psycopg.Error) as error:
            log.warning("listen.lost", error=str(error).strip())
            self._detach()
            return False
        self._named.update(dict.fromkeys(heard, time.monotonic() + _UNKNOWN_S))
        return True

    def _is_named(self) -> bool:
        """Tell whether a lease that was named is ours; most are of other workers."""
        if not self._named:
            return False
        ours = self._leases.held_among(self._named) | ({_ALL} & self._named.keys())
        now = time.monotonic()
        self._named = {
            claim: until
            for claim, until in self._named.items()
            if claim not in ours and until > now
        }
        return bool(ours)

    def _beat(self) -> bool:
        """Extend every lease; return whether the database answered for all of them."""
        answered = True
        for queue, leases in self._leases.held().items():
            try:
                self._extend(queue, leases)
            except (OrchestratorError, psycopg.Error) as error:
                log.warning("extend.failed", queue=queue, error=str(error))
                metrics.EXTEND_FAILURES.labels(metrics.named(queue)).inc()
                self._detach()
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
                if extension.yielding != lease.yielding:
                    self._ask_to_yield(lease, extension.yielding)

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

    def _ask_to_yield(self, lease: Lease, keys: frozenset[int]) -> None:
        """Tell the tasks of a lease which of them should yield; one in line does so at once."""
        lease.yielding = keys
        waiting = self._buffer.withdraw(
            lambda job: job.lease is lease and job.claim.dispatch_key in keys
        )
        for job in waiting:
            self._acks.put(lease, released(job.claim))
        for job in self._buffer.running():
            if job.lease is lease:
                job.ask_to_yield(job.claim.dispatch_key in keys)
