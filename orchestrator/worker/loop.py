"""Runs async handlers, each as a task of one event loop in one thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from contextvars import copy_context
from functools import partial
from typing import Any

from orchestrator.errors import PayloadError
from orchestrator.store.queue import Ending
from orchestrator.telemetry import tracing
from orchestrator.worker.acks import Acks
from orchestrator.worker.attempt import dead, ending
from orchestrator.worker.buffer import Buffer
from orchestrator.worker.errortext import AttemptFailed
from orchestrator.worker.job import Job
from orchestrator.worker.threads import Spawn


class Loop:
    """The event loop that takes async tasks out of a buffer."""

    def __init__(self, acks: Acks, spawn: Spawn) -> None:
        self._acks = acks
        self._spawn = spawn
        self._loop = asyncio.new_event_loop()
        self._context = copy_context()
        self._thread: threading.Thread | None = None
        self._stopping = False

    def serve(self, buffer: Buffer) -> None:
        """Take from this buffer from now on."""
        self._buffer = buffer
        self._thread = self._spawn("event loop", self._run)

    def wake(self) -> None:
        """Take what there is to take; from any thread."""
        self._loop.call_soon_threadsafe(self._pump, None)

    def stop(self, timeout_s: float) -> None:
        """End the loop and its thread; what has not ended by then never will."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._end)
            self._thread.join(timeout_s)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            while not self._stopping:
                # `sys.exit` in a task that a handler made goes through the loop, besides to whoever
                # awaits it; and any handler can stop the loop. The others run on.
                with contextlib.suppress(SystemExit, KeyboardInterrupt):
                    self._loop.run_forever()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            self._loop.close()

    def _end(self) -> None:
        self._stopping = True
        self._loop.stop()

    def _pump(self, done: Job | None) -> None:
        """Give up the slot of `done`, and start every task that finds a slot."""
        while (job := self._buffer.swap_async(done)) is not None:
            done = None
            # A context of its own: the default is a copy of that of the task that ended just now.
            context = self._context.copy()
            # The running job holds `abort`, and so the task, which the loop itself would not.
            running = self._loop.create_task(self._attend(job), context=context)
            job.can_be_aborted_by(partial(self._cancel, running))

    def _cancel(self, running: asyncio.Task[None]) -> None:
        # A closed loop runs nothing any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(running.cancel)

    async def _attend(self, job: Job) -> None:
        self._acks.put(job.lease, job.measured(await attempt(job)))
        self._pump(job)


async def attempt(job: Job) -> Ending:
    """Run the job's handler; return how that ended."""
    claim = job.claim
    try:
        claim.payload  # noqa: B018 - decoded once, here
    except PayloadError as error:
        return dead(claim, str(error))
    try:
        with tracing.handling(claim):
            if claim.timeout_s is None:
                return ending(claim, await job.handler.function(job.task))
            return ending(claim, await _limited(job, claim.timeout_s))
    except BaseException as error:  # noqa: BLE001 - also SystemExit ends an attempt, not the worker
        return job.broken_by(error)


async def _limited(job: Job, timeout_s: float) -> Any:
    """Run the handler for at most `timeout_s`; raise `AttemptFailed` if it takes longer."""
    try:
        async with asyncio.timeout(timeout_s) as limit:
            return await job.handler.function(job.task)
    except TimeoutError as error:
        if limit.expired():
            raise AttemptFailed(f"timed out after {timeout_s:g} s") from error
        raise
