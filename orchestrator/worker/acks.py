"""Acknowledges ended attempts in batches, over a connection and a thread of its own.

A flush whose outcome is unknown (the connection was lost) is sent again as it is: every ending is
fenced by its claim id, so what was committed the first time is simply not found the second time.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from uuid import UUID

import psycopg
import stamina
import structlog

from orchestrator.config import WorkerSettings
from orchestrator.errors import OrchestratorError
from orchestrator.model import AttemptStatus
from orchestrator.store import queue as store
from orchestrator.store.queue import Ending
from orchestrator.telemetry import metrics
from orchestrator.worker.leases import Lease, Leases
from orchestrator.worker.session import Session

log = structlog.get_logger()

FINAL = frozenset({AttemptStatus.SUCCEEDED, AttemptStatus.DISCARDED, AttemptStatus.DEAD})
_NEVER = sys.maxsize
# So many ends in one linger are worth another one: each statement has a price of its own. But no
# slot is held for longer than so many lingers.
_TORRENT = 16
_LINGERS_MAX = 4


class Acks:
    """Collects endings and flushes them until `stop`."""

    def __init__(
        self, session: Session, leases: Leases, settings: WorkerSettings, *, worker: str
    ) -> None:
        self._session = session
        self._leases = leases
        self._batch = settings.ack_batch
        self._linger_s = settings.ack_linger_s
        self._worker = worker
        self._pending: deque[tuple[Lease, Ending]] = deque()
        # How many endings wake the thread: one while it sleeps, a batch while it lingers.
        self._wake_at = _NEVER
        # Not an event: that is a condition, a lock and a list, all of it in Python.
        self._woken: SimpleQueue[None] = SimpleQueue()
        # When an ending came, before those that are pending.
        self._last_at = float("-inf")
        self._stopping = False
        self._give_up_at = float("inf")

    def put(self, lease: Lease, ending: Ending) -> None:
        """Have `ending` told to the database soon."""
        self._pending.append((lease, ending))
        if len(self._pending) >= self._wake_at:
            self._wake_at = _NEVER
            self._woken.put(None)

    def run(self) -> None:
        """Flush whatever comes, until `stop` and nothing is left."""
        try:
            while not (self._stopping and not self._pending):
                self._await(1, None)
                self._gather()
                self._flush()
        finally:
            self._session.close()

    def stop(self, patience_s: float) -> None:
        """Let `run` end once everything is flushed; after `patience_s` it gives up what is left."""
        self._give_up_at = time.monotonic() + patience_s
        self._stopping = True
        self._woken.put(None)

    def _gather(self) -> None:
        """Linger for a batch: once, and again while tasks end so fast that it spares statements."""
        now = time.monotonic()
        alone = now - self._last_at > self._linger_s and self._all_ended()
        self._last_at = now
        if alone:
            return
        for _ in range(_LINGERS_MAX):
            before = len(self._pending)
            if self._stopping or before >= self._batch:
                return
            self._await(self._batch, self._linger_s)
            joined = len(self._pending) - before
            if joined:
                self._last_at = time.monotonic()
            if joined < _TORRENT:
                return

    def _all_ended(self) -> bool:
        """Tell whether what is pending is all that was claimed: then nothing can join it soon."""
        return self._leases.unfinished() <= len(self._pending)

    def _await(self, count: int, timeout_s: float | None) -> None:
        """Wait until `count` endings are there, `stop`, or for `timeout_s`."""
        while not self._woken.empty():
            self._woken.get()
        self._wake_at = count
        # Looked at after the mark was set: whoever came before it did not wake us.
        if len(self._pending) < count and not self._stopping:
            with suppress(Empty):
                self._woken.get(timeout=timeout_s)
        self._wake_at = _NEVER

    def _flush(self) -> None:
        by_queue: dict[int, list[tuple[Lease, Ending]]] = {}
        for _ in range(min(self._batch, len(self._pending))):
            lease, ending = self._pending.popleft()
            lease.unfinished -= 1
            by_queue.setdefault(lease.queue, []).append((lease, ending))
        for queue, batch in by_queue.items():
            self._tell(queue, batch)

    def _tell(self, queue: int, batch: Sequence[tuple[Lease, Ending]]) -> None:
        leases = {lease for lease, _ in batch}
        closing = {lease for lease in leases if not lease.unfinished}
        # No lease has more ends than tasks, so where the sums are equal each has all of them.
        whole = closing == leases and sum(lease.tasks for lease in leases) == len(batch)
        final: list[Ending] = []
        back: list[Ending] = []
        for _, ending in batch:
            # The usual end by identity: a member of an enumeration is slow to hash.
            usual = ending.status is AttemptStatus.SUCCEEDED
            (final if usual or ending.status in FINAL else back).append(ending)
        send = partial(self._send, queue, final, back, closing, whole and not back)
        try:
            send()
        except Exception as error:  # noqa: BLE001 - raised again where no trial is worth it
            self._send_again(send, error)
        # Only now: a heartbeat must keep them while the flush is under way.
        for lease in closing:
            self._leases.remove(lease)

    def _send(
        self,
        queue: int,
        final: list[Ending],
        back: list[Ending],
        closing: Collection[Lease],
        whole: bool,
    ) -> None:
        """Tell of `final`, which is empty then, and of `back`."""
        if final:
            self._finish(queue, final, [lease.claim_id for lease in closing], whole)
            final.clear()
        if back:
            self._give_back(queue, back)

    def _send_again(self, send: Callable[[], None], error: Exception) -> None:
        """Go on with `send` as after a first trial, which failed with `error`."""
        # Not around the first one: to prepare for others is a sixth of what a lone end costs us.
        retrying = stamina.retry_context(
            on=self._worth_retrying, attempts=None, timeout=None, wait_max=1.0, wait_jitter=0.2
        )
        first: Exception | None = error
        for trial in retrying:
            with trial:
                if first is not None:
                    failed, first = first, None
                    raise failed
                send()

    def _finish(
        self, queue: int, endings: Sequence[Ending], closing: Sequence[UUID], whole: bool
    ) -> None:
        ended = self._session.run(
            store.finish(queue, endings, worker=self._worker, closing=closing, whole=whole)
        )
        if len(ended) < len(endings):
            self._note_gone(queue, len(endings) - len(ended))
            endings = [ending for ending in endings if ending.dispatch_key in ended]
        self._count(queue, [ending.status for ending in endings], endings)

    def _give_back(self, queue: int, endings: Sequence[Ending]) -> None:
        verdicts = self._session.transact(store.give_back(queue, endings, worker=self._worker))
        if len(verdicts) < len(endings):
            self._note_gone(queue, len(endings) - len(verdicts))
        self._count(queue, list(verdicts.values()), endings)

    def _count(
        self, queue: int, verdicts: Sequence[AttemptStatus], endings: Sequence[Ending]
    ) -> None:
        name = metrics.named(queue)
        metrics.ended(name, verdicts)
        ran = [ending.cost_us / 1e6 for ending in endings if ending.cost_us]
        if ran:
            metrics.RUN_DURATION.observe_all(ran, name)

    def _note_gone(self, queue: int, tasks: int) -> None:
        # Reaped after a lost lease, or the answer to an earlier flush was lost.
        log.info("ack.gone", queue=queue, tasks=tasks)
        metrics.ACKS_GONE.labels(metrics.named(queue)).inc(tasks)

    def _worth_retrying(self, error: Exception) -> bool:
        if not isinstance(error, OrchestratorError | psycopg.Error):
            return False
        if time.monotonic() < self._give_up_at:
            return True
        log.error("ack.given_up", error=str(error))
        return False
