"""Claimed tasks that wait for a slot, those that run, and who takes the next one.

Sync handlers run on threads, async ones on the event loop; both draw on one number of slots and
from one line, in claim order. Whoever is of the kind of the first task in line takes it, without a
hand-over: a thread that finished goes on with the next task, and so does the loop. Only where the
kinds alternate does one wake the other. Threads are woken (or made) one at a time, by the one
before: a burst of short tasks is done by the first before the second has come to its feet.

Where slots are kept for express work, that has a line of its own, which goes first and may use any
slot. Ordinary tasks leave the kept ones free, whatever waits: so a short task finds a slot beside
any number of long ones. Without a reserve there is one line.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from orchestrator.worker.job import Job
from orchestrator.worker.lane import Lane, Lanes


class Calls(NamedTuple):
    """What the buffer calls, under its lock; none of them may block or call back."""

    more_threads: Callable[[], None]  # a sync task and a slot wait, and no thread sleeps
    loop: Callable[[], None]  # `swap_async` has something to take
    room: Callable[[], None]  # `room` returned 0 and would not any more


class Buffer:
    """The lines and the slots; every method may be called from any thread."""

    def __init__(self, slots: int, calls: Calls, *, reserve: int = 0) -> None:
        """Prepare `slots` slots, `reserve` of them for express tasks alone."""
        self._slots = slots
        self._reserve = reserve
        self._calls = calls
        self._lock = threading.Lock()
        self._ready = threading.Condition(self._lock)
        self._idle = threading.Condition(self._lock)
        self.main = Lane()
        self.express = Lane()
        self._running: dict[Job, Lane] = {}
        self._sleeping = 0
        self._waking = False
        self._loop_woken = False
        self._closed = False

    @property
    def reserve(self) -> int:
        """How many slots are kept for express tasks."""
        return self._reserve

    def keep(self, reserve: int) -> None:
        """Keep so many slots for express tasks from now on; what runs, runs on."""
        with self._lock:
            if reserve != self._reserve:
                self._reserve = reserve
                self._settle()

    def put(self, jobs: Iterable[Job]) -> bool:
        """Let `jobs` join their lines; return False, and take none, once they are closed."""
        with self._lock:
            if self._closed:
                return False
            for job in jobs:
                lane = self.express if job.express and self._reserve else self.main
                lane.line.append(job)
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
                lane = self._next()
                if lane is not None and not lane.line[0].handler.is_async:
                    return self._take(lane, now)
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
            lane = self._next()
            if lane is not None and lane.line[0].handler.is_async:
                return self._take(lane, now)
            self._loop_woken = False
            self._settle()
        return None

    def room(self, ahead: Lanes) -> Lanes:
        """Return how many tasks to claim so that no slot waits and about `ahead` are in line.

        Where that is 0 for a lane, `room` is called when it is not any more. Without a reserve the
        two are one and the same.
        """
        with self._lock:
            main = self.main.wanted(self._free_main(), ahead.main)
            if self._reserve:
                return Lanes(main, self.express.wanted(self._free_express(), ahead.express))
            self.express.awaited = None
            return Lanes(main, main)

    def withdraw(self, chosen: Callable[[Job], bool]) -> list[Job]:
        """Take the chosen tasks out of the lines, and return them."""
        with self._lock:
            taken = [job for job in self._waiting() if chosen(job)]
            if taken:
                for lane in (self.express, self.main):
                    lane.line = deque(job for job in lane.line if not chosen(job))
                self._settle()
            return taken

    def withdraw_stalled(self, lane: Lane, longest_s: float) -> tuple[list[Job], float]:
        """Take a whole line whose first task waited longer than that; return it, and how long."""
        with self._lock:
            waited_s = time.monotonic() - lane.line[0].since if lane.line else 0.0
            if waited_s <= longest_s:
                return [], waited_s
            taken = list(lane.line)
            lane.line.clear()
            self._settle()
            return taken, waited_s

    def running(self) -> list[Job]:
        """Return what runs now."""
        with self._lock:
            return list(self._running)

    def counts(self) -> tuple[int, int]:
        """Return how many tasks run now, and how many are in line."""
        with self._lock:
            return len(self._running), len(self.main.line) + len(self.express.line)

    def close(self) -> list[Job]:
        """Start nothing more; return what was in line."""
        with self._lock:
            self._closed = True
            left = self._waiting()
            self.express.line.clear()
            self.main.line.clear()
            self._ready.notify_all()
            self._idle.notify_all()
            return left

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until nothing runs and nothing is in line; return whether that is so."""
        with self._lock:
            return self._idle.wait_for(self._is_idle, timeout_s)

    def wait_alone(self, timeout_s: float) -> bool:
        """Wait like `wait_idle`, but no longer than until the lines are closed."""
        with self._lock:
            self._idle.wait_for(lambda: self._closed or self._is_idle(), timeout_s)
            return self._is_idle()

    def _is_idle(self) -> bool:
        return not self._running and not self.express.line and not self.main.line

    def _waiting(self) -> list[Job]:
        return [*self.express.line, *self.main.line]

    def _next(self) -> Lane | None:
        """Return the line whose first task is the next to run, if there is a slot for it."""
        if len(self._running) >= self._slots:
            return None
        if self.express.line:
            return self.express
        if self.main.line and self.main.running < self._slots - self._reserve:
            return self.main
        return None

    def _free_main(self) -> int:
        """Return how many slots ordinary tasks may still take, the express line going first."""
        left = self._slots - len(self._running) - len(self.express.line)
        return min(left, self._slots - self._reserve - self.main.running)

    def _free_express(self) -> int:
        """Return how many slots are left for express tasks once the ordinary line took its part."""
        theirs = max(0, self._slots - self._reserve - self.main.running)
        return self._slots - len(self._running) - min(len(self.main.line), theirs)

    def _take(self, lane: Lane, now: float) -> Job:
        job = lane.line.popleft()
        self._running[job] = lane
        lane.running += 1
        job.since = now
        self._settle()
        return job

    def _finish(self, job: Job, now: float) -> None:
        lane = self._running.pop(job)
        lane.running -= 1
        lane.finished += 1
        lane.busy_s += now - job.since

    def _settle(self) -> None:
        """Tell those for whom the change just made is news."""
        self._hand_over()
        if self._is_idle():
            self._idle.notify_all()
        main, express = self.main, self.express
        if (main.awaited is not None and main.has_room(self._free_main())) or (
            express.awaited is not None and express.has_room(self._free_express())
        ):
            self._calls.room()

    def _hand_over(self) -> None:
        """Wake who can take the next in line, if there is a slot and nobody was woken yet."""
        lane = self._next()
        if lane is None:
            return
        if lane.line[0].handler.is_async:
            if not self._loop_woken:
                self._loop_woken = True
                self._calls.loop()
        elif not self._waking:
            self._waking = True
            if self._sleeping:
                self._ready.notify()
            else:
                self._calls.more_threads()
