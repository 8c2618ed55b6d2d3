"""One claimed task on its way through the worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from orchestrator.model import Claim
from orchestrator.store.names import MAIN_MIN
from orchestrator.store.queue import Ending
from orchestrator.worker.app import Handler, Task
from orchestrator.worker.attempt import failed, released
from orchestrator.worker.errortext import AttemptFailed, describe
from orchestrator.worker.leases import Lease

log = structlog.get_logger()


class Job:
    """A claim, its handler, and what may happen to it from other threads."""

    __slots__ = (
        "abort",
        "claim",
        "express",
        "handler",
        "lease",
        "since",
        "stopped",
        "task",
        "tell",
    )

    def __init__(self, claim: Claim, handler: Handler, lease: Lease, since: float) -> None:
        self.claim = claim
        self.handler = handler
        self.lease = lease
        # Whether it may use the slots that are kept for short work.
        self.express = claim.dispatch_key < MAIN_MIN
        # When it came into the line; once it runs, when that began.
        self.since = since
        self.task = Task(claim)
        # Ends the attempt from another thread, where that is possible: a coroutine, a process.
        self.abort: Callable[[], None] | None = None
        # Passes on, from another thread, what the task was told, where the handler runs elsewhere.
        self.tell: Callable[[], None] | None = None
        # The worker stops and waits no longer: the attempt is ended, through no fault of the task.
        self.stopped = False

    def can_be_aborted_by(self, abort: Callable[[], None]) -> None:
        """Set `abort`, and call it where the task was told to end before there was one."""
        self.abort = abort
        if self.task.cancelled or self.stopped:
            abort()

    def cancel(self) -> None:
        """Tell the handler that its work counts for nothing any more, and end it if possible."""
        if not self.task.cancelled:
            self.task.cancelled = True
            log.info("task.asked_to_stop", task=self.claim.id, name=self.claim.name)
            if self.abort is not None:
                self.abort()

    def ask_to_yield(self, wanted: bool) -> None:
        """Tell the handler that a critical task waits for its slot, or does not any more."""
        if self.task.yielding is not wanted:
            self.task.yielding = wanted
            event = "task.asked_to_yield" if wanted else "task.asked_no_more"
            log.info(event, task=self.claim.id, name=self.claim.name)
            self._pass_on()

    def drain(self) -> None:
        """Tell the handler that the worker stops."""
        self.task.stopping = True
        self._pass_on()

    def _pass_on(self) -> None:
        if self.tell is not None:
            self.tell()

    def stop(self) -> None:
        """End the attempt, if possible, because the worker waits no longer."""
        self.stopped = True
        if self.abort is not None:
            self.abort()

    def measured(self, ending: Ending) -> Ending:
        """Return `ending` with the worker time that the attempt took: from its start until now."""
        # At least 1, because 0 says that it never ran.
        cost_us = int((time.monotonic() - self.since) * 1e6) + 1
        key, claim_id, status, error, delay_s, _, keyed = ending
        return Ending(key, claim_id, status, error, delay_s, cost_us, keyed)

    def broken_by(self, error: BaseException) -> Ending:
        """Return how the attempt ends that raised `error`."""
        # By its type: `isinstance` would ask the exception, which may answer anything.
        if issubclass(type(error), asyncio.CancelledError | AttemptFailed):
            if self.task.cancelled:
                return failed(self.claim, "cancelled")
            if self.stopped:
                return released(self.claim)
        text = describe(error)
        claim = self.claim
        first, _, _ = text.partition("\n")
        log.warning(
            "task.failed", task=claim.id, name=claim.name, attempt=claim.attempt, error=first
        )
        return failed(claim, text)
