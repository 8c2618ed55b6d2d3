"""Claimed tasks that wait for a slot, those that run, and who takes the next one.

Sync handlers run on threads, async ones on the event loop; both draw on one number of slots and
from one line, in claim order. Whoever is of the kind of the first task in line takes it, without a
hand-over: a thread that finished goes on with the next task, and so does the loop. Only where the
kinds alternate does one wake the other. Threads are woken (or made) one at a time, by the one
before: a burst of short tasks is done by the first before the second has come to its feet.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from orchestrator.worker.job import Job


class Calls(NamedTuple):
    """What the buffer calls, under its lock; none of them may block or call back."""

    more_threads: Callable[[], None]  # a sync task and a slot wait, and no thread sleeps
    loop: Callable[[], None]  # `swap_async` has something to take
    room: Callable[[], None]  # `room` returned 0 and would not any more


class Buffer:
    """The line and the slots; every method may be called from any thread."""

    def __init__(self, slots: int, calls: Calls) -> None:
        """Prepare `slots` slots."""
        self._slots = slots
        self._calls = calls
        self._lock = threading.Lock()
        self._ready = threading.Condition(self._lock)
        self._idle = threading.Condition(self._lock)
        self._line: deque[Job] = deque()
        self._running: set[Job] = set()
        self._sleeping = 0
        self._waking = False
        self._loop_woken = False
        self._awaited: int | None = None
        self._closed = False
        self.finished = 0
        self.busy_s = 0.0

    def put(self, jobs: Iterable[Job]) -> bool:
        """Let `jobs` join the line; return False, and take none, once it is closed."""
        with self._lock:
            if self._closed:
                return False
            self._line.extend(jobs)
            self._hand_over()
        return True

    def swap(self, done: Job | None) -> Job | None:
        """Give up the slot of `done`; wait for a sync task and a slot, None once closed."""
        with self._lock:
            now = time.monotonic()
            if done is None:
                self._waking = False
            else:
                self._finish(done, now)
            while not self._closed:
                line = self._line
                if line and len(self._running) < self._slots and not line[0].handler.is_async:
                    return self._take(now)
                self._settle()
                self._sleeping += 1
                self._ready.wait()
                self._sleeping -= 1
                self._waking = False
                now = time.monotonic()
            self._settle()
        return None

    def swap_async(self, done: Job | None) -> Job | None:
        """Give up the slot of `done`; return the async task whose turn it is, if there is one."""
        with self._lock:
            now = time.monotonic()
            if done is not None:
                self._finish(done, now)
            line = self._line
            if line and len(self._running) < self._slots and line[0].handler.is_async:
                return self._take(now)
            self._loop_woken = False
            self._settle()
        return None

    def room(self, ahead: int) -> int:
        """Return how many tasks to claim so that no slot waits and about `ahead` are in line.

        Returns 0 while more than half of that is there, and calls `room` when it is not.
        """
        with self._lock:
            wanted = 0
            if len(self._line) <= ahead // 2:
                free = self._slots - len(self._running)
                wanted = max(free, ahead) - len(self._line)
            self._awaited = ahead if wanted <= 0 else None
            return max(0, wanted)

    def withdraw(self, chosen: Callable[[Job], bool]) -> list[Job]:
        """Take the chosen tasks out of the line, and return them."""
        with self._lock:
            taken = [job for job in self._line if chosen(job)]
            if taken:
                self._line = deque(job for job in self._line if not chosen(job))
                self._settle()
            return taken

    def waited_s(self) -> float:
        """Return how long the first task in line has been waiting."""
        with self._lock:
            return time.monotonic() - self._line[0].since if self._line else 0.0

    def running(self) -> list[Job]:
        """Return what runs now."""
        with self._lock:
            return list(self._running)

    def close(self) -> list[Job]:
        """Start nothing more; return what was in line."""
        with self._lock:
            self._closed = True
            left = list(self._line)
            self._line.clear()
            self._ready.notify_all()
            self._idle.notify_all()
            return left

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until nothing runs and nothing is in line; return whether that is so."""
        with self._lock:
            return self._idle.wait_for(self._is_idle, timeout_s)

    def wait_alone(self, timeout_s: float) -> bool:
        """Wait like `wait_idle`, but no longer than until the line is closed."""
        with self._lock:
            self._idle.wait_for(lambda: self._closed or self._is_idle(), timeout_s)
            return self._is_idle()

    def _is_idle(self) -> bool:
        return not self._line and not self._running

    def _take(self, now: float) -> Job:
        job = self._line.popleft()
        self._running.add(job)
        job.since = now
        self._settle()
        return job

    def _finish(self, job: Job, now: float) -> None:
        self._running.discard(job)
        self.finished += 1
        self.busy_s += now - job.since

    def _settle(self) -> None:
        """Tell those for whom the change just made is news."""
        if self._line:
            self._hand_over()
        elif not self._running:
            self._idle.notify_all()
        if (
            self._awaited is not None
            and len(self._line) <= self._awaited // 2
            and (self._awaited or len(self._running) < self._slots)
        ):
            self._awaited = None
            self._calls.room()

    def _hand_over(self) -> None:
        """Wake who can take the first in line, if there is a slot and nobody was woken yet."""
        if not self._line or len(self._running) >= self._slots:
            return
        if self._line[0].handler.is_async:
            if not self._loop_woken:
                self._loop_woken = True
                self._calls.loop()
        elif not self._waking:
            self._waking = True
            if self._sleeping:
                self._ready.notify()
            else:
                self._calls.more_threads()
