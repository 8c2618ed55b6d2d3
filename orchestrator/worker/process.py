"""A process in which a sync handler with a timeout runs, because a thread cannot be ended.

It lives on from task to task, belongs to one thread of the worker, and is started when that thread
first needs it. Killing it is how a timeout or a cancellation ends an attempt; a handler that takes
the process down with it (a segfault, `os._exit`) fails that attempt and nothing else.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from orchestrator.worker import child
from orchestrator.worker.app import reference
from orchestrator.worker.errortext import AttemptFailed
from orchestrator.worker.job import Job

# Not fork: this process has threads, and a fork copies their locks in whatever state they are.
_SPAWN = multiprocessing.get_context("spawn")
# From the request until the handler is called: a new process imports the application first.
START_MAX_S = 60.0
# An idle process ends by itself when its pipe is closed.
_CLOSE_MAX_S = 5.0


class Child:
    """Runs handlers of one thread in a process of their own, one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None
        # One message at a time, and none about a task that does not run here any more.
        self._sending = threading.Lock()
        self._job: Job | None = None

    def run(self, job: Job) -> Any:
        """Run the job's handler for at most the task's timeout; return what it returned.

        Raises `AttemptFailed` where it raised, took too long, or took its process down.
        """
        claim, function = job.claim, job.handler.function
        found = reference(function)
        if found is None:
            raise AttemptFailed(
                f"a handler with a timeout runs in a process of its own, which cannot import "
                f"{function!r}: define it at the top level of a module"
            )
        timeout_s = claim.timeout_s or 0.0
        try:
            pipe = self._started()
            with self._sending:
                pipe.send((*found, claim))
                self._job = job
            if job.task.should_yield:
                # It was told before there was anybody to tell.
                self.tell(job)
            if not pipe.poll(START_MAX_S):
                raise self._ended(f"its process did not start within {START_MAX_S:g} s")
            answer = pipe.recv()
            if answer is child.STARTED:
                if not pipe.poll(timeout_s):
                    raise self._ended(f"timed out after {timeout_s:g} s")
                answer = pipe.recv()
        except (EOFError, OSError) as error:
            raise self._ended(None) from error
        finally:
            with self._sending:
                self._job = None
        outcome, text = answer
        if text is not None:
            raise AttemptFailed(text)
        return outcome

    def tell(self, job: Job) -> None:
        """Pass on what `job` was told, from any thread, if it is the one that runs here."""
        with self._sending, contextlib.suppress(OSError):
            if self._job is job and self._pipe is not None:
                self._pipe.send(child.Told(job.task.stopping, job.task.yielding))

    def kill(self) -> None:
        """End the process and what it started, from any thread; `run` then raises."""
        with self._lock:
            if self._process is not None:
                _kill(self._process)

    def close(self) -> None:
        """End the process; for the thread that runs in it."""
        with self._lock:
            process, pipe = self._process, self._pipe
            self._process = self._pipe = None
        if process is not None and pipe is not None:
            pipe.close()
            process.join(_CLOSE_MAX_S)
            _kill(process)
            process.join()
            process.close()

    def _started(self) -> Connection:
        if self._pipe is not None:
            return self._pipe
        mine, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(target=child.main, args=(theirs, os.getpid()), name="task")
        process.start()
        # Its end is open in that process alone, so that its death closes the pipe.
        theirs.close()
        with self._lock:
            self._process, self._pipe = process, mine
        return mine

    def _ended(self, reason: str | None) -> AttemptFailed:
        """Bury the process; return why the attempt failed, by default how the process ended."""
        with self._lock:
            process, pipe = self._process, self._pipe
            self._process = self._pipe = None
        if process is None or pipe is None:
            return AttemptFailed(reason or "its process could not be started")
        if reason is not None:
            _kill(process)
        pipe.close()
        process.join()
        code = process.exitcode
        process.close()
        return AttemptFailed(reason or f"its process ended: {_exit(code)}")


def _kill(process: SpawnProcess) -> None:
    if process.pid is None or process.exitcode is not None:
        return
    # Its group, which holds what the handler started; there is none before it made one.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)


def _exit(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
