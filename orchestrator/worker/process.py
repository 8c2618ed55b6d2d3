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
import time
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from orchestrator.text import kind_of, said
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
_POLL_MAX_S = 86_400.0


class Child:
    """Runs handlers of one thread in a process of their own, one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None
        # What runs here, and whether the process was ended for its sake.
        self._job: Job | None = None
        self._killed = False
        # One message at a time, and none about a task that does not run here any more.
        self._sending = threading.Lock()
        self._asked: Job | None = None

    def run(self, job: Job) -> Any:
        """Run the job's handler for at most the task's timeout; return what it returned.

        Raises `AttemptFailed` where it raised, took too long, or took its process down.
        """
        function = job.handler.function
        found = reference(function)
        if found is None:
            raise AttemptFailed(
                f"a handler with a timeout runs in a process of its own, which cannot import "
                f"{function!r}: define it at the top level of a module"
            )
        with self._lock:
            self._job = job
        try:
            outcome, text = self._answer(job, found)
        except AttemptFailed:
            raise
        except (EOFError, OSError) as error:
            raise self._ended(None) from error
        except Exception as error:
            # What else it says would be taken for the answer to the next task.
            why = f"its process failed: {kind_of(error)}: {said(error)}"
            raise self._ended(why) from error
        finally:
            self._let_go()
        if text is not None:
            raise AttemptFailed(text)
        return outcome

    def tell(self, job: Job) -> None:
        """Pass on what `job` was told, from any thread, if it is the one that runs here."""
        with self._sending, contextlib.suppress(OSError):
            if self._asked is job and self._pipe is not None:
                self._pipe.send(child.Told(job.task.stopping, job.task.yielding))

    def kill(self, job: Job) -> None:
        """End the process and what it started, from any thread, if `job` is the one that runs here;
        `run` then raises.
        """
        with self._lock:
            if self._job is job and self._process is not None:
                self._killed = True
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

    def _answer(self, job: Job, found: tuple[str, str]) -> tuple[Any, str | None]:
        """Have the process run the job's handler; return (what it returned, what went wrong)."""
        pipe = self._started()
        if job.task.cancelled or job.stopped:
            # It was told before there was a process to end.
            self.kill(job)
        with self._sending:
            pipe.send((*found, job.claim))
            self._asked = job
        if job.task.should_yield:
            # It was told before there was anybody to tell.
            self.tell(job)
        if not pipe.poll(START_MAX_S):
            raise self._ended(f"its process did not start within {START_MAX_S:g} s")
        answer = pipe.recv()
        if answer is child.STARTED:
            timeout_s = job.claim.timeout_s or 0.0
            if not _poll(pipe, timeout_s):
                raise self._ended(f"timed out after {timeout_s:g} s")
            answer = pipe.recv()
        outcome, text = answer
        return outcome, text

    def _let_go(self) -> None:
        """Tell and end nothing any more for the sake of what ran here."""
        with self._sending:
            self._asked = None
        with self._lock:
            killed, self._job, self._killed = self._killed, None, False
        if killed:
            # It may have answered before that: the next task needs another one all the same.
            self._ended(None)

    def _started(self) -> Connection:
        if self._pipe is not None and self._process is not None:
            if self._process.is_alive():
                return self._pipe
            # For want of memory, or by what the last handler left running in it.
            self._ended(None)
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


def _poll(pipe: Connection, timeout_s: float) -> bool:
    """Wait for an answer; the system itself waits for less than a month at a time."""
    deadline = time.monotonic() + timeout_s
    while not pipe.poll(max(0.0, min(_POLL_MAX_S, deadline - time.monotonic()))):
        if time.monotonic() >= deadline:
            return False
    return True


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
