"""Claims tasks: one statement a call, into a line that is as long as the tasks are fast.

A queue that gave less than it was asked for is left alone until a notification, or until its next
poll. Queues are read one after the other in list order, each once in a round; an error of one queue
makes only that queue wait. Where slots are kept for express work and only they are free, a claim
asks for express work alone.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence

import psycopg
import structlog

from orchestrator.config import WorkerSettings
from orchestrator.errors import OrchestratorError
from orchestrator.model import Claim
from orchestrator.store.queue import FEW, Quota
from orchestrator.telemetry import metrics
from orchestrator.telemetry.health import Loop
from orchestrator.wakeup.listener import Listener
from orchestrator.worker.acks import Acks
from orchestrator.worker.app import Handler
from orchestrator.worker.attempt import dead, failed, released
from orchestrator.worker.buffer import Buffer
from orchestrator.worker.job import Job
from orchestrator.worker.lane import Lanes
from orchestrator.worker.leases import Lease, Leases
from orchestrator.worker.pace import Pace
from orchestrator.worker.session import Session
from orchestrator.worker.source import Source

log = structlog.get_logger()

# A task that lost this many leases in a row may be what ends its workers: it runs alone.
SUSPECT_AFTER = 1
# Tasks that waited in line for this long are given back: others may have slots free. The line holds
# work for 50 ms, so this happens where fast tasks suddenly became slow.
LINE_MAX_S = 1.0
# While there is nothing to claim for: how often to drain notifications and to look at the line.
_CHECK_S = 1.0


class Fetcher:
    """Keeps the line filled until `stop`."""

    def __init__(
        self,
        session: Session,
        sources: Sequence[Source],
        handlers: Mapping[str, Handler],
        settings: WorkerSettings,
        *,
        slots: int,
        listener: Listener,
        buffer: Buffer,
        leases: Leases,
        acks: Acks,
        loop: Loop,
    ) -> None:
        """Prepare to fill `slots` slots; the buffer calls `make_room`."""
        self._session = session
        self._sources = list(sources)
        self._handlers = handlers
        self._settings = settings
        self._listener = listener
        self._buffer = buffer
        self._leases = leases
        self._acks = acks
        self._loop = loop
        self._slots = slots
        self._main_pace = Pace(slots, settings.prefetch_max)
        self._express_pace = Pace(slots, settings.prefetch_max)
        self._stopping = False
        self._room = threading.Event()
        self._keep_reserve()

    def run(self) -> None:
        """Claim until `stop`; what is in line then is not the fetcher's to give back."""
        try:
            while not self._stopping:
                self._step()
            for source in self._sources:
                with contextlib.suppress(OrchestratorError, psycopg.Error):
                    self._settle_doubt(source)
        finally:
            self._listener.close()
            self._session.close()

    def stop(self) -> None:
        """Let `run` end after the claim under way."""
        self._stopping = True
        self._room.set()
        self._listener.wake()

    def make_room(self) -> None:
        """Look at the buffer again, which has room for more; from any thread."""
        self._room.set()
        if self._buffer.reserve:
            # While one lane has room and nothing comes for it, we wait for notifications instead.
            self._listener.wake()

    def _step(self) -> None:
        """Claim once from the next queue, or wait for a reason to."""
        self._loop.turn()
        room = self._buffer.room(self._ahead())
        if not any(room):
            self._await_room()
            return
        with self._loop.connecting():
            self._look_again(self._listener.connect())
        found = self._next(room)
        if found is not None and not self._fetch(*found):
            return
        # After a claim of a few tasks nothing else is done first: each step of ours is one that a
        # handler waits for the interpreter.
        wait_s = min(source.look_at(room) for source in self._sources) - time.monotonic()
        if found is not None or not all(room):
            # The line, or that of the other lane, may stand still meanwhile.
            wait_s = min(wait_s, _CHECK_S)
        self._look_again(self._listener.wait(max(0.0, wait_s)))

    def _ahead(self) -> Lanes:
        """Return how many tasks to have in line; give a line back that does not move."""
        buffer = self._buffer
        ahead = []
        for lane, pace in (
            (buffer.main, self._main_pace),
            (buffer.express, self._express_pace),
        ):
            stalled, waited_s = buffer.withdraw_stalled(lane, LINE_MAX_S)
            if stalled:
                pace.stalled(waited_s)
                self._release(stalled)
            pace.observe(lane.finished, lane.busy_s)
            ahead.append(pace.ahead())
        return Lanes(*ahead)

    def _await_room(self) -> None:
        """Wait until the line is short: meanwhile notifications are of no interest."""
        self._room.wait(_CHECK_S)
        self._room.clear()
        # But they are read, or the server would keep them for us.
        self._look_again(self._listener.wait(0))

    def _next(self, room: Lanes) -> tuple[Source, Quota] | None:
        """Return the next queue in turn that is worth a look, and what to ask it for; its turn is
        over then.
        """
        for position, source in enumerate(self._sources):
            quota = source.quota(room)
            if quota is not None:
                self._sources.append(self._sources.pop(position))
                return source, quota
        return None

    def _look_again(self, queues: set[int]) -> None:
        for source in self._sources:
            if source.queue in queues:
                source.look_again()

    def _fetch(self, source: Source, quota: Quota) -> bool:
        """Claim from one queue; its errors make it wait, and nobody else. Return whether a few
        tasks came, and no more are to be had.
        """
        longest_s = self._settings.poll_max_s
        asked_at = time.monotonic()
        try:
            self._settle_doubt(source)
            if source.learn(self._session):
                # The quota may be another now.
                self._keep_reserve()
                return False
            claims = source.claim(self._session, quota)
        except Exception as error:  # noqa: BLE001 - one queue's trouble must not stop the others
            self._note(source, error)
            source.failed(longest_s)
            return False
        self._loop.works()
        source.gave(
            quota,
            claims,
            longest_s=longest_s,
            heard=self._listener.hears(source.queue),
            suspects=any(_is_suspect(claim) for claim in claims),
        )
        if claims:
            self._take(source, claims, asked_at)
        # Counted while they run.
        metrics.claimed(source.name, claims)
        return 0 < len(claims) <= min(FEW, quota.limit - 1)

    def _keep_reserve(self) -> None:
        """Keep the slots for express work that the queues want kept."""
        reserve = max(source.reserve(self._slots) for source in self._sources)
        self._main_pace.slots = self._slots - reserve
        self._express_pace.slots = reserve
        self._buffer.keep(reserve)

    def _note(self, source: Source, error: Exception) -> None:
        ours = isinstance(error, OrchestratorError | psycopg.Error)
        log.warning("claim.failed", queue=source.name, error=str(error), exc_info=not ours)
        metrics.CLAIM_FAILURES.labels(source.name).inc()
        self._loop.fails(error)

    def _take(self, source: Source, claims: Sequence[Claim], asked_at: float) -> None:
        deadline = asked_at + self._settings.lease_s
        lease = Lease(claims[0].claim_id, source.queue, len(claims), deadline)
        self._leases.add(lease)
        now = time.monotonic()
        jobs = [job for claim in claims if (job := self._job(claim, lease, now)) is not None]
        suspect = next((job for job in jobs if _is_suspect(job.claim)), None)
        if suspect is not None:
            self._run_alone(suspect, beside=jobs)
        elif not self._buffer.put(jobs):
            self._release(jobs)

    def _job(self, claim: Claim, lease: Lease, now: float) -> Job | None:
        """Return the job of a claim; None, and its end, where no handler is here for it."""
        handler = self._handlers.get(claim.name or "")
        if handler is not None:
            return Job(claim, handler, lease, now)
        if claim.name is None:
            self._acks.put(lease, dead(claim, "the record of the task is gone"))
        else:
            log.warning("task.unknown", task=claim.id, name=claim.name)
            self._acks.put(lease, failed(claim, f"no handler for {claim.name!r} in this worker"))
        return None

    def _run_alone(self, suspect: Job, *, beside: Sequence[Job]) -> None:
        """Give everything else back, run `suspect` with nothing beside it, and only then go on."""
        self._release([job for job in beside if job is not suspect])
        self._release(self._buffer.withdraw(lambda _: True))
        claim = suspect.claim
        log.warning("task.alone", task=claim.id, name=claim.name, lost=claim.lost)
        if self._quiet() and self._leases.holds(suspect.lease) and self._buffer.put([suspect]):
            self._quiet()
        else:
            self._release([suspect])

    def _quiet(self) -> bool:
        """Wait until nothing runs; return False where `stop` came first."""
        while not self._stopping:
            self._loop.turn()
            if self._buffer.wait_alone(_CHECK_S):
                return True
            self._look_again(self._listener.wait(0))
        return False

    def _release(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._acks.put(job.lease, released(job.claim))

    def _settle_doubt(self, source: Source) -> None:
        endings = source.settle_doubt(self._session)
        if endings:
            log.info("claim.released", queue=source.name, tasks=len(endings))
            lease = Lease(endings[0].claim_id, source.queue, len(endings), 0.0)
            self._leases.add(lease)
            for ending in endings:
                self._acks.put(lease, ending)


def _is_suspect(claim: Claim) -> bool:
    return claim.lost >= SUSPECT_AFTER
