"""Runs sync handlers, on threads that are made when they are first needed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from functools import partial

from orchestrator.errors import PayloadError
from orchestrator.store.queue import Ending
from orchestrator.telemetry import tracing
from orchestrator.worker.acks import Acks
from orchestrator.worker.attempt import dead, ending
from orchestrator.worker.buffer import Buffer
from orchestrator.worker.job import Job
from orchestrator.worker.process import Child

Spawn = Callable[[str, Callable[[], None]], threading.Thread]


class Threads:
    """The threads that take sync tasks out of a buffer: as many as it has slots, at most."""

    def __init__(self, acks: Acks, spawn: Spawn) -> None:
        self._acks = acks
        self._spawn = spawn
        self._threads: list[threading.Thread] = []

    def serve(self, buffer: Buffer) -> None:
        """Take from this buffer from now on."""
        self._buffer = buffer

    def add(self) -> None:
        """Start one more thread; it ends when the buffer is closed."""
        self._threads.append(self._spawn(f"task {len(self._threads) + 1}", self._run))

    def join(self, timeout_s: float) -> None:
        """Wait for the threads to end; one whose handler does not return is left behind."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        child = Child()
        job: Job | None = None
        try:
            while (job := self._buffer.swap(job)) is not None:
                self._acks.put(job.lease, job.measured(attempt(job, child)))
        finally:
            child.close()


def attempt(job: Job, child: Child) -> Ending:
    """Run the job's handler here, or in `child` if it has a timeout; return how that ended."""
    claim = job.claim
    try:
        claim.payload  # noqa: B018 - decoded once, here
    except PayloadError as error:
        return dead(claim, str(error))
    try:
        with tracing.handling(claim):
            if claim.timeout_s is None:
                # A copy, so that what a handler sets in context variables ends with it.
                return ending(claim, copy_context().run(job.handler.function, job.task))
            job.can_be_aborted_by(partial(child.kill, job))
            job.tell = partial(child.tell, job)
            return ending(claim, child.run(job))
    except BaseException as error:  # noqa: BLE001 - also SystemExit ends an attempt, not the worker
        return job.broken_by(error)
